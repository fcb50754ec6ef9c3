"""What a report says of where and when it was made."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable
from typing import Any


def facts(packages: Iterable[str]) -> dict[str, Any]:
    """The date, the machine and its load, the code, and the versions of Python and packages."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "cpu": cpu(),
        "load": os.getloadavg(),
        "commit": commit(),
        "python": platform.python_version(),
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


def commit() -> str | None:
    """That of jaxseg, and whether its code has changed since; None where there is no repository."""
    package = pathlib.Path(importlib.util.find_spec("jaxseg").origin).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        found, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{found}, changed" if changed else found
