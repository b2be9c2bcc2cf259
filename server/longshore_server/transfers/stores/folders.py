"""The folders of a local store: walked from its root one by one, so that no link leads out of it."""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from longshore_server import keys

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: somebody may have put a pipe there.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Folders:
    """What is below a root, by key. Every method raises `OSError`.

    Args:
        root: the folder of the store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def parent(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that holds `key`, as an open file, and the name within it.

        With `make` it is there on return, durably, with all those above it. Whether they are new does not matter:
        whoever has made them may not have come to syncing them.
        """
        *above, name = key.split("/")
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for segment in above:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(segment, dir_fd=folder)
                    os.fsync(folder)
                outer, folder = folder, os.open(segment, _FOLDER, dir_fd=folder)
                os.close(outer)
            yield folder, name
        finally:
            os.close(folder)

    def open(self, key: str, stack: contextlib.ExitStack) -> tuple[int, os.stat_result]:
        """The file of a key, which `stack` closes. Raises `FileNotFoundError` for what is no plain file."""
        with self.parent(key) as (folder, name):
            file = os.open(name, _FILE, dir_fd=folder)
        stack.callback(os.close, file)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a plain file")
        return file, status

    def look(self, key: str) -> os.stat_result:
        """What is at a key: a file, or something else."""
        with self.parent(key) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def prune(self, key: str) -> None:
        """Remove the folders above `key` that hold nothing: they would stand in the way of objects of their names."""
        with contextlib.suppress(OSError):  # it holds something, or another deletion was faster
            while "/" in key:
                key = key.rpartition("/")[0]
                with self.parent(key) as (folder, name):
                    os.rmdir(name, dir_fd=folder)

    def walk(self, prefix: str, after: str, batch: int) -> Iterator[tuple[str, os.stat_result]]:
        """Keys beyond `after` that begin with `prefix`, in order, and their files.

        In memory there are `batch` names of each folder on the way at most.
        """
        # Still to visit, the next one last: a file's key, or a folder's with a slash and after which name to go on.
        ahead = [("", "")]
        while ahead:
            path, past = ahead.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # deleted meanwhile
                if path and not path.endswith("/"):
                    yield path, self.look(path)
                    continue
                with self.parent(f"{path}any") as (folder, _):
                    names = _names(folder, path, past, prefix, after, batch)
                if len(names) == batch:
                    ahead.append((path, names[-1]))
                ahead.extend((path + name, "") for name in reversed(names))


def _names(folder: int, path: str, past: str, prefix: str, after: str, batch: int) -> list[str]:
    """The first names in an open folder that may lead to a key that is wanted; those of folders end with a slash,
    with which they sort as the keys in them do."""

    def wanted() -> Iterator[str]:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                name = f"{entry.name}/"
                key = path + name
                found = (key > after or after.startswith(key)) and (key.startswith(prefix) or prefix.startswith(key))
            elif entry.is_file(follow_symlinks=False):
                name = entry.name
                key = path + name
                found = key > after and key.startswith(prefix)
            else:
                continue
            if found and name > past and keys.is_key(key.removesuffix("/")):
                yield name

    with os.scandir(folder) as entries:
        return heapq.nsmallest(batch, wanted())
