"""Where the mistake is in a service that cannot be loaded, started or ended: in its own code, not in what calls it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import sysconfig
import threading
import traceback
from pathlib import Path
from typing import NamedTuple

from longshore_server.contract.source import ContractError

_OURS = Path(__file__).parent
_CALLERS = (*(Path(package.__path__[0]) for package in (importlib, asyncio)), Path(contextlib.__file__))
"""Through what, besides us, a service's code is called."""
_COMPILED = ("<frozen ", "uvloop/")
"""How names of files begin that are none: of the import system, and of uvloop."""
_LIBRARY = sysconfig.get_path("stdlib")


class Mistake(NamedTuple):
    """What has kept a server from starting or ending well."""

    sentence: str
    """Where, what, and what to do."""
    trace: str = ""
    """How its code has come there, in lines; empty: the sentence says it all."""


def explain(error: Exception | SystemExit) -> Mistake:
    """What an error says that came while a service was loaded, started or ended, to its author."""
    place = place_of(error)
    if isinstance(error, ContractError):
        # Most of them say where they are in a contract.
        placed = place is None or ".proto" in str(error).partition(": ")[0]
        return Mistake(str(error) if placed else f"{place}: {error}")
    if place is not None and (known := _known(error)):
        return Mistake(f"{place}: {known}")
    formatted = traceback.TracebackException.from_exception(error)
    if place is not None:  # else it is not the author who needs the trace
        _leave_out(formatted)
    # Of a mistake of syntax the line comes first, indented.
    said = next(text for text in formatted.format_exception_only() if not text.startswith("  "))
    trace = "".join(formatted.format()).removesuffix(said).rstrip()
    return Mistake(f"{place or 'unexpected'}: {said.splitlines()[0]}", trace)


def _known(error: Exception | SystemExit) -> str | None:
    """What to do about a mistake that needs no trace; None: this is another one."""
    if isinstance(error, SystemExit):
        # Whatever it says, as text or as a number: nobody else will say it.
        said = "SystemExit" if error.code is None else f"SystemExit: {error.code}"
        return (
            f"{said}: here the service ends the whole process: raise an error of your own, and put what only a script "
            'does below `if __name__ == "__main__":`'
        )
    if isinstance(error, ModuleNotFoundError):
        return (
            f"there is no module {error.name}: install it, or put the folder that holds it on PYTHONPATH; for a "
            "contract that is the folder `longshore generate` wrote to"
        )
    if isinstance(error, TypeError) and "abstract" in str(error):
        # What Python says of a class that leaves a method of its base out: of a service's generated one, or of ours.
        return f"{error}: write it, as an `async def`"
    refused = isinstance(error, TypeError | ValueError) and _is_ours(
        traceback.extract_tb(error.__traceback__)[-1].filename
    )
    return str(error) if refused else None


def running() -> str | None:
    """What of a service the main thread runs now, as file and line; None: nothing."""
    identity = threading.main_thread().ident
    assert identity is not None
    stack = traceback.extract_stack(sys._current_frames()[identity])  # noqa: SLF001 - documented, but for its name
    ours = [position for position, frame in enumerate(stack) if _is_ours(frame.filename)]
    called = reversed(stack[max(ours, default=-1) + 1 :])
    frame = next((frame for frame in called if not _is_foreign(frame.filename)), None)
    return None if frame is None else _shown(frame.filename, frame.lineno)


def place_of(error: Exception | SystemExit) -> str | None:
    """The file and the line of the service that an error came from; None: it came from elsewhere."""
    if isinstance(error, SyntaxError) and error.filename is not None and Path(error.filename).is_file():
        return _shown(error.filename, error.lineno)
    frames = traceback.extract_tb(error.__traceback__)
    shown = [frame for frame in frames if not _is_hidden(frame.filename)]
    # Not where a library has raised what the service has brought about; a service may be installed beside them.
    own = [frame for frame in shown if not _is_foreign(frame.filename)]
    if not own and not any(frame.filename.startswith("<frozen importlib") for frame in frames):
        return None
    frame = next(reversed(own or shown), None)
    return None if frame is None else _shown(frame.filename, frame.lineno)


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
    return _is_ours(file) or file.startswith(_COMPILED) or any(Path(file).is_relative_to(path) for path in _CALLERS)


def _is_foreign(file: str) -> bool:
    return "site-packages" in file or Path(file).is_relative_to(_LIBRARY) or file.startswith(_COMPILED)


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_OURS)
