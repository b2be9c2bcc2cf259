"""Writes what is generated inside the pages of docs/: tables and diagrams that the code itself knows best.

python docs/generate.py            write
python docs/generate.py --check    fail when a file is not what would be written
"""

# ruff: noqa: INP001
from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from longshore_server import lifecycle, reasons

DOCS = Path(__file__).parent
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "lifecycle.md": {"diagram": lambda: f"```mermaid\n{lifecycle.diagram()}\n```", "table": lifecycle.table},
    "errors.md": {"refusals": lambda: reasons.table(ends=False), "ends": lambda: reasons.table(ends=True)},
}
"""By page: what stands between its markers."""


def render(page: str, text: str) -> str:
    """`text` with everything between its markers made anew. Raises `ValueError` when a marker is missing."""
    for name, body in PAGES[page].items():
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text, count = pattern.subn(f"{begin}\n\n{body()}\n\n{end}".replace("\\", r"\\"), text)
        if count != 1:
            raise ValueError(f"{page} must have exactly one marker {begin}")
    return text


def main() -> int:
    """Returns the exit code."""
    stale = []
    for page in PAGES:
        before = (DOCS / page).read_text("utf-8")
        after = render(page, before)
        if before != after:
            stale.append(page)
            if "--check" not in sys.argv[1:]:
                (DOCS / page).write_text(after, "utf-8")
    if stale and "--check" in sys.argv[1:]:
        print(f"out of date: {', '.join(stale)} in {DOCS}; run python docs/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
