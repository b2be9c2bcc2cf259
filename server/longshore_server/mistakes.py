"""Where the mistake is in a service that cannot be loaded, started or ended: in its own code, not in what calls it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import traceback
from pathlib import Path
from typing import NamedTuple

_OURS = Path(__file__).parent
_CALLERS = (*(Path(package.__path__[0]) for package in (importlib, asyncio)), Path(contextlib.__file__))
"""Through what, besides us, a service's code is called."""


class Mistake(NamedTuple):
    """What has been raised in the code of a service, or by what that calls."""

    sentence: str
    """Where, what, and what to do."""
    trace: str = ""
    """How its code has come there, in lines; empty: the sentence says it all."""


def find(error: Exception) -> Mistake | None:
    """What an error says that a service has raised; None: it was not the service."""
    place = _place(error)
    if place is None:
        return None
    if isinstance(error, ModuleNotFoundError):
        return Mistake(
            f"{place}: there is no module {error.name}: install it, or put the folder that holds it on PYTHONPATH; for "
            "a contract that is the folder `longshore generate` wrote to"
        )
    if isinstance(error, TypeError) and "abstract" in str(error):
        # What Python says of a service that leaves a method of its generated base out.
        return Mistake(f"{place}: {error}: each operation of the contract needs its handler")
    if isinstance(error, TypeError | ValueError) and _is_ours(traceback.extract_tb(error.__traceback__)[-1].filename):
        return Mistake(f"{place}: {error}")
    formatted = traceback.TracebackException.from_exception(error)
    _leave_out(formatted)
    # Of a mistake of syntax the line comes first, indented.
    said = next(text for text in formatted.format_exception_only() if not text.startswith("  "))
    trace = "".join(formatted.format()).removesuffix(said).rstrip()
    return Mistake(f"{place}: {said.splitlines()[0]}", trace)


def _place(error: Exception) -> str | None:
    """The file and the line of the service that an error came from."""
    if isinstance(error, SyntaxError) and error.filename is not None and Path(error.filename).is_file():
        return _shown(error.filename, error.lineno)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_hidden(frame.filename)]
    if not frames:
        return None
    # Not where a package that is installed has raised what the service has brought about.
    frame = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    return _shown(frame.filename, frame.lineno)


def _shown(file: str, line: int | None) -> str:
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"


def _leave_out(formatted: traceback.TracebackException) -> None:
    """Keep the frames of the service, and of what it calls."""
    formatted.stack[:] = [frame for frame in formatted.stack if not _is_hidden(frame.filename)]
    for before in (formatted.__cause__, formatted.__context__):
        if before is not None:
            _leave_out(before)


def _is_hidden(file: str) -> bool:
    # What is compiled shows no path: the import system, uvloop.
    return (
        _is_ours(file)
        or file.startswith(("<frozen ", "uvloop/"))
        or any(Path(file).is_relative_to(caller) for caller in _CALLERS)
    )


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_OURS)
