"""Unix sockets: who may call by them, and how one gets to its path without a moment in which others may."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAX_GROUP = 2**32 - 2


class Rights(NamedTuple):
    """Who may call by a socket, besides the user of the server and root."""

    mode: int
    """The bits of the file: 0o600, 0o660 or 0o666, for example."""
    group: int | None = None
    """The number of the group that it belongs to. None: the system's choice for what the server makes there."""


def group_number(text: str) -> int:
    """The number of a group that is given by its name or its number. Raises `KeyError` for what is neither."""
    if not (text.isdecimal() and text.isascii()):
        return grp.getgrnam(text).gr_gid
    if int(text) > _MAX_GROUP:
        raise KeyError(text)
    return int(text)


def path_of(address: str) -> Path | None:
    """Where the socket of `unix:PATH` is. None for an address of another kind."""
    return Path(address.removeprefix("unix:").removeprefix("//")) if address.startswith("unix:") else None


def check(path: Path) -> None:
    """Whether a socket may be put there. Raises `OSError` with what is wrong and what to do."""
    if _answers(path):
        raise OSError("another server answers there; choose another")
    if path.exists() and not path.is_socket():
        raise OSError("there is a file of another kind; choose another path")
    if not path.parent.is_dir():
        raise OSError(f"the directory {path.parent} does not exist")


@contextlib.contextmanager
def placed(path: Path, rights: Rights) -> Iterator[str]:
    """Yields the address to bind, and puts what was bound there at `path`, with its rights.

    It is made in a folder that only the server may enter, and moved to its place when all about it is right: nobody
    meets it there with other rights, nor can put something else there for the server to give away. The socket that a
    dead server left behind is replaced; whoever answers on it is alive, and keeps it.

    Raises `OSError` with what is wrong and what to do.
    """
    check(path)
    try:
        folder = tempfile.TemporaryDirectory(prefix=".", dir=path.parent)
    except OSError as error:
        raise OSError(f"the server may not write in {path.parent}: {error.strerror}") from None
    with folder:
        made = Path(folder.name) / "s"
        yield f"unix:{made}"
        if rights.group is not None:
            try:
                os.chown(made, -1, rights.group)
            except OSError:
                raise OSError(
                    f"the server may not give it to the group {rights.group}: its user must be a member of it"
                ) from None
        made.chmod(rights.mode)
        made.replace(path)


def _answers(path: Path) -> bool:
    """Whether somebody listens at a socket. Raises `OSError`."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise OSError(f"whether another server answers there cannot be found out: {error.strerror}") from None
    return True
