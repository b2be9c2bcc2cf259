"""`python -m longshore_server SERVER ...` is `longshore serve SERVER ...`."""

from __future__ import annotations

from longshore_server.command import serve

if __name__ == "__main__":
    serve(prog_name="longshore serve")
