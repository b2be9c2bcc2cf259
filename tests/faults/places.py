"""Where the objects of a torture are, a folder or a bucket: what is there in the end, and what should not be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Protocol

from longshore_server.transfers.stores.settings import StoreSettings
from tests.server.transfers.buckets import LocalS3

MIB = 1 << 20


class Place(Protocol):
    """The place of one run."""

    memory: int
    """The most bytes that a server may ever have had in memory, whatever the sizes."""
    stores: tuple[StoreSettings, ...]
    """What the configuration says of it."""

    def flags(self, data: Path) -> list[str]:
        """Those with which a server has it."""

    def objects(self, data: Path) -> dict[str, str]:
        """The SHA-256 of every object, by key."""

    def left(self, data: Path) -> list[str]:
        """What is there besides, and should not be."""


class Folder:
    """The one in the data directory."""

    memory = 160 * MIB
    stores: tuple[StoreSettings, ...] = ()

    def flags(self, data: Path) -> list[str]:
        return []

    def objects(self, data: Path) -> dict[str, str]:
        root = data / "stores" / "uploads"
        paths = (path for path in root.rglob("*") if path.is_file() and root / ".longshore" not in path.parents)
        return {str(path.relative_to(root)): file_digest(path) for path in paths}

    def left(self, data: Path) -> list[str]:
        own = data / "stores" / "uploads" / ".longshore"
        found = files(own / "staging") + files(own / "incoming")
        described = len(list((own / "meta").iterdir()))
        if described != len(self.objects(data)):
            found.append(f"{described} descriptions")
        return found


class Bucket:
    """One that outlives all servers."""

    # Parts of 8 MiB are sent from memory, several at once, and the library alone takes half of a server.
    memory = 256 * MIB

    def __init__(self, s3: LocalS3) -> None:
        self.s3 = s3
        self.stores: tuple[StoreSettings, ...] = (StoreSettings(name="uploads", **s3.settings()),)

    def flags(self, data: Path) -> list[str]:
        data.mkdir(parents=True, exist_ok=True)
        file = data.with_suffix(".toml")
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in self.s3.settings().items()]
        file.write_text("[stores.uploads]\n" + "".join(lines), "utf-8")
        return ["--config", str(file)]

    def objects(self, data: Path) -> dict[str, str]:
        return {key: hashlib.sha256(self.s3.read(key)).hexdigest() for key in self.s3.objects}

    def left(self, data: Path) -> list[str]:
        own = data / "stores" / "uploads"
        return files(data / "staging") + files(own / "incoming") + ["an upload in parts"] * self.s3.uploads


def files(folder: Path) -> list[str]:
    """The names of all that is in a folder."""
    return [str(path) for path in folder.iterdir()]


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
