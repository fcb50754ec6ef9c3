"""What a report says of where and when it was made."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterable
from typing import Any


def facts(packages: Iterable[str]) -> dict[str, Any]:
    """The date, the machine and its load, and the versions of these packages."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "cpu": cpu(),
        "load": os.getloadavg(),
        "versions": {x: importlib.metadata.version(x) for x in packages},
    }


def cpu() -> str | None:
    """Its name and number, where Linux says them: how contestants compare may depend on it."""
    said = pathlib.Path("/proc/cpuinfo")
    lines = said.read_text().splitlines() if said.exists() else []
    of = dict(map(str.strip, x.split(":", 1)) for x in lines if ":" in x)
    return (
        f"{of['model name']}, model {of['model']}" if of.keys() >= {"model name", "model"} else None
    )
