"""How names of the proto language become names of Python."""

from __future__ import annotations

import keyword
import re

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """Turn `ProcessOrder` into `process_order`, `GetURL` into `get_url` and `Import` into `import_`."""
    snake = _WORD_START.sub("_", name).lower()
    return f"{snake}_" if keyword.iskeyword(snake) else snake


def module_path(proto_file: str, suffix: str) -> str:
    """Dotted name of the module that protoc's Python generator makes of a file.

    >>> module_path("acme/orders/v1/orders.proto", "_pb2")
    'acme.orders.v1.orders_pb2'
    """
    stem = proto_file.removesuffix(".proto")
    return stem.replace("-", "_").replace("/", ".") + suffix


def output_path(proto_file: str) -> str:
    """Path of the typed module of a file, beside its `_pb2.py`."""
    return module_path(proto_file, "_longshore").replace(".", "/") + ".py"


def client_name(service: str) -> str:
    """`OrdersService` is followed through `OrdersClient`, `Orders` too."""
    return (service.removesuffix("Service") or service) + "Client"
