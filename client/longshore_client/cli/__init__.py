"""The command line `longshore`. Needs the extra `cli`; nothing here is imported before a command asks for it."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        try:
            from longshore_client.cli.app import run
        except ModuleNotFoundError as error:
            sys.exit(f'error: {error.name} is not installed: pip install "longshore-grpc[cli]"')
        code = run()
    except KeyboardInterrupt:  # while all this is imported, too
        code = 130
    sys.exit(code)
