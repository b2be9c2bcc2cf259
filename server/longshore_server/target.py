"""The server that SERVER names on the command line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from longshore_server import mistakes
from longshore_server.server import Server


class LoadError(Exception):
    """There is no such server; the message says why and what to do."""


class TargetError(LoadError):
    """Nor will there be, whatever is written into the files that there are: SERVER itself is wrong."""


def load_server(target: str) -> Server:
    """The server of `MODULE:NAME` or `FILE.py:NAME`.

    Raises `LoadError`, which is a `TargetError` where SERVER names nothing, and what the module itself raises.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise TargetError(f"{target!r} is neither MODULE:NAME nor FILE.py:NAME, for example service:server")
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise TargetError(f"there is no file {where}")
        # As `python FILE` does: what lies beside the file can be imported.
        sys.path.insert(0, str(path.resolve().parent))
        module_name = path.stem
    elif where.startswith("."):  # Python would look for a module beside this one
        raise _no_module(where, name)
    else:
        sys.path.insert(0, str(Path.cwd()))
        module_name = where
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if mistakes.place_of(error) is not None:
            raise
        raise _no_module(where, name) from None
    found = getattr(module, name, None)
    if isinstance(found, Server):
        return found
    problem = f"{name} is of type {type(found).__name__}" if hasattr(module, name) else f"it has no {name}"
    servers = [n for n, value in vars(module).items() if isinstance(value, Server)]
    way_out = f"it has {', '.join(servers)}" if servers else f"write `{name} = Server(...)` there"
    kind = TargetError if servers else LoadError
    raise kind(f"{where}: {problem}, and a longshore_server.Server is needed; {way_out}")


def _no_module(where: str, name: str) -> TargetError:
    hint = f"; did you mean {where}.py:{name}?" if Path(f"{where}.py").is_file() else ""
    return TargetError(f"there is no module {where} in {Path.cwd()} or on the Python path{hint}")
