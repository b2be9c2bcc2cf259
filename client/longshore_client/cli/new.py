"""`longshore new`: a small project that works, as a place to begin."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import keyword
import re
from pathlib import Path

import click

_TEMPLATE = Path(__file__).resolve().parents[1] / "template"
_MODULE, _CLASS = "widgets", "Widgets"
"""What the template calls its package and its service."""
_HIDDEN = {"gitignore": ".gitignore", "dockerignore": ".dockerignore"}
"""In the template these would hide its own files from the tools that look for them."""
_FOLDERS = {path.name for path in _TEMPLATE.iterdir()}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_DIRECT = """
[tool.hatch.metadata]
# Longshore is taken from where it was installed from here.
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

    def named(text: str) -> str:
        return text.replace(_MODULE, module).replace(_CLASS, service)

    origin = _origin()
    for source in sorted(path for path in _TEMPLATE.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        path = source.relative_to(_TEMPLATE)
        target = folder / named(str(path.with_name(_HIDDEN.get(path.name, path.name))))
        target.parent.mkdir(parents=True, exist_ok=True)
        text = named(source.read_text("utf-8"))
        if origin is not None and path.name == "pyproject.toml":
            text = re.sub(r"\]>=[\d.]+", lambda _: f"] @ {origin}", text, count=2) + _DIRECT
        target.write_text(text, "utf-8")
        click.echo(target)
    click.echo(f"next: cd {name} && make dev; {folder / 'README.md'} says more", err=True)


def _origin() -> str | None:
    """Where Longshore was installed from, for pip: a checkout, a wheel or a repository; None: from a package index.

    By PEP 610. A project that asks an index for what came from elsewhere may get nothing, or somebody else's.
    """
    told = importlib.metadata.distribution("longshore-grpc").read_text("direct_url.json")
    if told is None:
        return None
    direct = json.loads(told)
    if (source := direct.get("vcs_info")) is not None:
        return f"{source['vcs']}+{direct['url']}@{source['commit_id']}"
    return str(direct["url"])
