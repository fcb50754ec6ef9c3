"""What benchmarks/peers.py and benchmarks/metric_peers.py write: literals, and a page on them."""

from __future__ import annotations

import ast
import json
import pathlib

import numpy as np


def write_literals(path: pathlib.Path, literals: dict) -> None:
    """JSON with a line for each entry of each part."""
    parts = []
    for part, entries in literals.items():
        lines = (f"    {json.dumps(name)}: {json.dumps(x)}" for name, x in entries.items())
        parts.append(f"  {json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n  }")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def write_table(path: pathlib.Path, columns: list[str], rows: list[str]) -> None:
    """The table of a page, which ends with it, below the prose, which stays."""
    head = f"| {' | '.join(columns)} |"
    prose = path.read_text().split(head)[0]
    path.write_text("\n".join([prose + head, "|---" * len(columns) + "|", *rows, ""]))


def expressions(path: pathlib.Path, table: str) -> dict[str, list[str]]:
    """The text of the calls of each entry of a table."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
            return {
                key.value: [
                    ast.unparse(x.body)
                    for x in ([entry] if isinstance(entry, ast.Lambda) else entry.args)
                    if isinstance(x, ast.Lambda)
                ]
                for key, entry in zip(node.value.keys, node.value.values, strict=True)
            }
    raise LookupError(f"{path} has no table {table}")


def distance(found, expected) -> str:
    """The largest difference of the finite numbers, relative to the largest of them."""
    found, expected = np.ravel(found), np.ravel(expected)
    finite = np.isfinite(expected)
    error = np.max(np.abs(found[finite] - expected[finite]), initial=0.0)
    return f"{error / np.max(np.abs(expected[finite])):.0e}" if error else "0"


def worst(found, expected) -> tuple[float, float]:
    """The pair of numbers that differs most."""
    found, expected = np.broadcast_arrays(found, expected)
    alike = (found == expected) | (np.isnan(found) & np.isnan(expected))
    apart = np.where(alike, 0.0, np.nan_to_num(np.abs(found - expected), nan=np.inf))
    at = np.argmax(apart)
    return found.flat[at], expected.flat[at]
