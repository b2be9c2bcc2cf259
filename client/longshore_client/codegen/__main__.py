"""`python -m longshore_client.codegen` is the protoc plugin."""

from __future__ import annotations

from longshore_client.codegen.plugin import main

if __name__ == "__main__":
    main()
