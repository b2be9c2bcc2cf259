"""What the operating system answers, as the reasons of a store."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping

from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError

_ABSENT = (Reason.OBJECT_NOT_FOUND, "there is no object with this key")
_CONFLICT = (Reason.KEY_CONFLICT, "the key, or a folder of it, is taken by something else than an object")

READING: Mapping[int, tuple[Reason, str]] = {
    errno.ENOENT: _ABSENT, errno.ENOTDIR: _ABSENT, errno.ELOOP: _ABSENT, errno.ENXIO: _ABSENT,
}  # fmt: skip
"""What it means when an object is looked for."""
CHANGING: Mapping[int, tuple[Reason, str]] = {
    errno.ENOTDIR: _CONFLICT, errno.ELOOP: _CONFLICT, errno.EISDIR: _CONFLICT, errno.ENOTEMPTY: _CONFLICT,
    errno.EEXIST: (Reason.OBJECT_EXISTS, "there is an object with this key"),
}  # fmt: skip
"""What it means when one is put in place."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def refusing(key: str, meanings: Mapping[int, tuple[Reason, str]] | None = None) -> Iterator[None]:
    """Raises `ObjectError` for what the operating system refuses inside the block.

    Args:
        key: what it was about.
        meanings: by error number, beyond a disk that is full and one that fails.
    """
    try:
        yield
    except OSError as error:
        reason = Reason.STORE_FULL if error.errno in _FULL else Reason.STORE_UNAVAILABLE
        reason, text = (meanings or {}).get(error.errno or 0, (reason, error.strerror or str(error)))
        raise ObjectError(reason, f"{key}: {text}") from error
