"""Longshore as a wheel, for projects that cannot get it from a package index."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTALLERS = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_build.json", "uv_cache.json"}
"""What whoever installs a wheel writes beside its metadata, or anew."""


def longshore_wheel() -> tuple[str, bytes] | None:
    """The Longshore that runs, as a wheel, name and content; None: it came from an index, which has it for others, too.

    Raises:
        ClickException: It is installed in editable form, and pip cannot build it.
    """
    found = distribution("longshore-grpc")
    told = found.read_text("direct_url.json")
    if told is None:
        return None
    origin = json.loads(told)
    return _built(origin["url"]) if origin.get("dir_info", {}).get("editable") else _packed(found)


def _packed(installed: Distribution) -> tuple[str, bytes]:
    """What is installed, put together again: its origin may be gone, and the environment may have no pip."""
    record, content = io.StringIO(), io.BytesIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in _files(installed):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.writerow((path, f"sha256={digest}", len(data)))
            wheel.writestr(_entry(path), data, zipfile.ZIP_DEFLATED)
        name = f"{installed.name.replace('-', '_')}-{installed.version}"
        rows.writerow((f"{name}.dist-info/RECORD", "", ""))
        wheel.writestr(_entry(f"{name}.dist-info/RECORD"), record.getvalue(), zipfile.ZIP_DEFLATED)
    return f"{name}-py3-none-any.whl", content.getvalue()


def _files(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    """What was in the wheel: commands, caches and notes have been made of it, or beside it."""
    for file in sorted(installed.files or ()):
        if ".." in file.parts or file.is_absolute() or "__pycache__" in file.parts:
            continue
        if file.parent.suffix != ".dist-info" or file.name not in _INSTALLERS:
            yield str(file), file.read_binary()


def _entry(path: str) -> zipfile.ZipInfo:
    """An entry that is the same whenever it is written."""
    entry = zipfile.ZipInfo(path)
    entry.external_attr = 0o644 << 16
    return entry


def _built(folder: str) -> tuple[str, bytes]:
    """A wheel of the sources that are used where they lie."""
    with tempfile.TemporaryDirectory() as out:
        make = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, folder]
        made = subprocess.run(make, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if made.returncode != 0:
            why = made.stderr.strip().rpartition("\n")[2]
            raise click.ClickException(f"Longshore came from {folder}, and pip makes no wheel of that now: {why}")
        (wheel,) = Path(out).iterdir()
        return wheel.name, wheel.read_bytes()
