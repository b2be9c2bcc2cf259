"""Writes what is generated inside the pages of docs/: tables and diagrams that the code itself knows best.

python docs/generate.py            write
python docs/generate.py --check    fail when a file is not what would be written
"""

# ruff: noqa: INP001
from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from longshore_server import config, instance_lifecycle, job_lifecycle, lifecycle, reasons

DOCS = Path(__file__).parent


def _settings() -> Iterator[str]:
    """The lines of the table of settings, one for each field of `Config`."""
    meanings = _meanings()
    yield "| TOML key | option | variable | type | default | may be | meaning |"
    yield "|---|---|---|---|---|---|---|"
    for field in dataclasses.fields(config.Config):
        name = field.name
        cells = (
            f"`{name}`", f"`{config.OPTIONS.get(name, '--' + name.replace('_', '-'))}`", f"`LONGSHORE_{name.upper()}`",
            config.KINDS[str(field.type)].name.removeprefix("a "), _shown(field.default), _bounds(name),
            meanings[name],
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _meanings() -> Mapping[str, str]:
    """The docstring below each field. One that has none is missing here."""
    (body,) = ast.parse(inspect.getsource(config.Config)).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _shown(default: Any) -> str:
    match default:
        case None | "" | ():
            return ""
        case bool():
            return f"`{str(default).lower()}`"
        case tuple():
            return f"`{', '.join(default)}`"
        case float():
            return f"`{default:.15g}`"
    return f"`{default}`"


def _bounds(name: str) -> str:
    if name in config.WORDS:
        return ", ".join(f"`{word}`" for word in config.WORDS[name])
    if name in config.BOUNDS:
        low, high = config.BOUNDS[name]
        return f"{low:,} to {high:,}"
    return ""


def _stories() -> str:
    """The table of what clients do, which the tests of them know best."""
    sys.path.append(str(DOCS.parent))
    from tests.polyglot.stories import table

    return table()


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "lifecycle.md": {"diagram": lambda: f"```mermaid\n{lifecycle.diagram()}\n```", "table": lifecycle.table},
    "jobs_lifecycle.md": {
        "diagram": lambda: f"```mermaid\n{job_lifecycle.diagram()}\n```",
        "table": job_lifecycle.table,
    },
    "instances_lifecycle.md": {
        "diagram": lambda: f"```mermaid\n{instance_lifecycle.diagram()}\n```",
        "table": instance_lifecycle.table,
    },
    "configuration.md": {"settings": lambda: "\n".join(_settings())},
    "clients.md": {"stories": _stories},
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
