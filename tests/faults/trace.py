"""The system calls of a server, as `shim.c` writes them down, and what power loss would have left at any of them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent


class Call(NamedTuple):
    """One system call. `kind` and `file` as in shim.c."""

    kind: str
    file: str
    offset: int
    data: bytes


def build(folder: Path) -> Path:
    """Compile the shim; without a C compiler the test is skipped, visibly."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = folder / "shim.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


def environment(shim: Path, *, trace: Path | None = None, folder: Path | None = None, weak: str = "") -> dict[str, str]:
    """What a server's environment needs for the shim, and for a weaker store if one is wanted."""
    found = {"LD_PRELOAD": str(shim)}
    if trace is not None:
        found["FAULTS_TRACE"] = str(trace)
    if folder is not None:
        found["FAULTS_FOLDER"] = str(folder)
    return found | weakened(weak)


def weakened(weak: str) -> dict[str, str]:
    """What a server's environment needs for a weaker store; see weak/sitecustomize.py."""
    if not weak:
        return {}
    path = os.pathsep.join(part for part in (str(HERE / "weak"), os.environ.get("PYTHONPATH")) if part)
    return {"FAULTS_WEAK": weak, "PYTHONPATH": path}


def read(trace: Path) -> Iterator[Call]:
    """The calls, in order. A record cut short by a kill ends them."""
    data = trace.read_bytes()
    position = 0
    while position + 18 <= len(data):
        kind, file = chr(data[position]), chr(data[position + 1])
        offset = int.from_bytes(data[position + 2 : position + 10], "little")
        length = int.from_bytes(data[position + 10 : position + 18], "little")
        position += 18
        yield Call(kind, file, offset, data[position : position + length])
        position += length


def is_commit(call: Call) -> bool:
    """Whether this is the header of a frame of the write-ahead log that ends a transaction (its field 2 is not 0)."""
    return call.kind == "W" and call.file == "w" and len(call.data) == 24 and call.data[4:8] != b"\0\0\0\0"


class Order:
    """When each marker was written, covered by a sync together with its transaction's end, and first sent."""

    def __init__(self, calls: Iterable[Call], markers: Sequence[bytes]) -> None:
        self.written: dict[bytes, int] = {}
        self.durable: dict[bytes, int] = {}
        self.sent: dict[bytes, int] = {}
        self.syncs = 0
        written: set[bytes] = set()  # in the log, in a transaction that has not ended
        ended: set[bytes] = set()  # in the log with the end of its transaction, and not synced
        covered: set[bytes] = set()  # what the sync that is under way covers
        committing = False
        for number, call in enumerate(calls):
            if call.kind == "W" and call.file == "w":
                # A frame's header comes in one call and its page in the next: that one is the last of its transaction.
                if len(call.data) == 24:
                    committing = is_commit(call)
                    continue
                for marker in markers:
                    if marker not in self.written and marker in call.data:
                        self.written[marker] = number
                        written.add(marker)
                if committing:
                    ended |= written
                    written.clear()
            elif call.kind == "B" and call.file == "w":
                covered = set(ended)
            elif call.kind == "E" and call.file == "w":
                self.syncs += 1
                for marker in covered:
                    self.durable.setdefault(marker, number)
                ended -= covered
            elif call.kind == "S":
                for marker in markers:
                    if marker not in self.sent and marker in call.data:
                        self.sent[marker] = number

    def violations(self) -> list[bytes]:
        """The markers that left the process before the disk had them."""
        return [m for m, sent in self.sent.items() if m not in self.durable or self.durable[m] > sent]


class Disk:
    """What the disk holds for certain, and what it may hold: everything since the last sync of a file is up to luck.

    After a failed sync that is for ever: the kernel forgets that those pages were to be written, so that a later sync
    of the same file succeeds without them, while every reader still finds them in the page cache.
    """

    def __init__(self) -> None:
        self._synced = {"d": bytearray(), "w": bytearray()}
        self._loose: dict[str, list[Call]] = {"d": [], "w": []}
        self._forgotten: dict[str, list[Call]] = {"d": [], "w": []}
        self._syncing: dict[str, int] = {"d": 0, "w": 0}

    def apply(self, call: Call) -> None:
        """One more call."""
        if call.file not in self._synced:
            return
        if call.kind in "WT":
            self._loose[call.file].append(call)
        elif call.kind == "B":
            self._syncing[call.file] = len(self._loose[call.file])
        elif call.kind == "E":
            count = self._syncing[call.file]
            for done in self._loose[call.file][:count]:
                _put(self._synced[call.file], done)
            self._loose[call.file] = self._loose[call.file][count:]
        elif call.kind == "X":
            count = self._syncing[call.file]
            self._forgotten[call.file] += self._loose[call.file][:count]
            self._loose[call.file] = self._loose[call.file][count:]

    def after_power_loss(self, folder: Path, rng: random.Random | None) -> Path:
        """The database as a restart would find it: of what was not synced nothing, or what `rng` lets through."""
        folder.mkdir()
        for file, name in (("d", "longshore.db"), ("w", "longshore.db-wal")):
            data = bytearray(self._synced[file])
            for call in self._loose[file]:
                if rng is not None and rng.random() < 0.5:
                    _put(data, call)
            (folder / name).write_bytes(data)
        return folder / "longshore.db"


def _put(data: bytearray, call: Call) -> None:
    if call.kind == "T":
        del data[call.offset :]
        data.extend(bytes(call.offset - len(data)))
        return
    if len(data) < call.offset:
        data.extend(bytes(call.offset - len(data)))
    data[call.offset : call.offset + len(call.data)] = call.data
