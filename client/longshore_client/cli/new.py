"""`longshore new`: a small project that works, as a place to begin."""

from __future__ import annotations

import ast
import importlib.util
import keyword
import re
from pathlib import Path

import click

from longshore_client.cli.wheel import longshore_wheel

_TEMPLATE = Path(__file__).resolve().parents[1] / "template"
_MODULE, _CLASS = "widgets", "Widgets"
"""What the template calls its package and its service."""
_HIDDEN = {"gitignore": ".gitignore", "dockerignore": ".dockerignore"}
"""In the template these would hide its own files from the tools that look for them."""
_FOLDERS = {path.name for path in _TEMPLATE.iterdir()} - {_MODULE} | {"data", "wheels"}
"""What a project has beside its package: the last two are made later."""
_SERVICE = _TEMPLATE / _MODULE / "service.py"
"""What its class must not hide the names of."""
_IMPORTED = re.compile(r"(?<= import )\w+, \w+$", re.MULTILINE)
"""Names whose order depends on what the project is called."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_DIRECT = """
[tool.hatch.metadata]
# Longshore came from no package index: its wheel is in this project. Commit it; a newer one gets its name above.
allow-direct-references = true
"""

_EPILOG = """\b
Example:
  longshore new orders
  cd orders
  make dev
"""


@click.command("new", epilog=_EPILOG)
@click.argument("name")
def new(name: str) -> None:
    """Write a project called NAME: a contract, its service, a test, and what builds them.

    It is written to a folder of that name, which must not be there yet.
    """
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise click.UsageError(f"NAME: {name!r} must be lower-case letters, digits and '-', the first one a letter")
    folder = Path(name)
    if folder.exists():
        raise click.UsageError(f"NAME: there is a {name} here already; choose another")
    # The project's own package would hide the other one, or be hidden by it.
    if keyword.iskeyword(module) or module in _FOLDERS or importlib.util.find_spec(module) is not None:
        raise click.UsageError(f"NAME: {module!r} means something else in Python; choose another")
    service = "".join(word.capitalize() for word in name.split("-"))
    used = {node.id for node in ast.walk(ast.parse(_SERVICE.read_text("utf-8"))) if isinstance(node, ast.Name)}
    if keyword.iskeyword(service) or service in used - {_CLASS}:
        raise click.UsageError(f"NAME: its class {service} would mean something else in Python; choose another")

    def named(text: str) -> str:
        text = text.replace(_MODULE, module).replace(_CLASS, service)
        return _IMPORTED.sub(lambda names: ", ".join(sorted(names[0].split(", "))), text)

    # A project that asks an index for what came from elsewhere may get nothing, or somebody else's. Inside the project
    # the wheel is also there for whoever clones it, and for what builds its image.
    wheel = longshore_wheel()
    for source in sorted(path for path in _TEMPLATE.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        path = source.relative_to(_TEMPLATE)
        text = named(source.read_text("utf-8"))
        if wheel is not None and path.name == "pyproject.toml":
            text = re.sub(r"\]>=[\d.]+", f"] @ {{root:uri}}/wheels/{wheel[0]}", text, count=2) + _DIRECT
        _write(folder / named(str(path.with_name(_HIDDEN.get(path.name, path.name)))), text.encode())
    if wheel is not None:
        _write(folder / "wheels" / wheel[0], wheel[1])
    click.echo(f"next: cd {name} && make dev; {folder / 'README.md'} says more", err=True)


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    click.echo(target)
