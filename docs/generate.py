"""Writes what is generated inside docs/lifecycle.md: the diagram and the table, from longshore_server/lifecycle.py.

python docs/generate.py            write
python docs/generate.py --check    fail when the file is not what would be written
"""

# ruff: noqa: INP001
from __future__ import annotations

import re
import sys
from pathlib import Path

from longshore_server import lifecycle

PAGE = Path(__file__).parent / "lifecycle.md"


def render(text: str) -> str:
    """`text` with everything between its markers made anew. Raises `ValueError` when a marker is missing."""
    parts = {"diagram": f"```mermaid\n{lifecycle.diagram()}\n```", "table": lifecycle.table()}
    for name, body in parts.items():
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text, count = pattern.subn(f"{begin}\n\n{body}\n\n{end}".replace("\\", r"\\"), text)
        if count != 1:
            raise ValueError(f"{PAGE.name} must have exactly one marker {begin}")
    return text


def main() -> int:
    """Returns the exit code."""
    before = PAGE.read_text("utf-8")
    after = render(before)
    if "--check" in sys.argv[1:]:
        if before != after:
            print(f"{PAGE} is out of date: run python docs/generate.py", file=sys.stderr)
            return 1
    elif before != after:
        PAGE.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
