"""`python -m longshore_client.cli` is the command line."""

from __future__ import annotations

from longshore_client.cli import main

if __name__ == "__main__":
    main()
