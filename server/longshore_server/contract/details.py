"""The message types of the details that failures carry: a contract says which, and callers must be ready for others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from longshore_server.contract.types import OperationType

_INFO = error_details_pb2.ErrorInfo.DESCRIPTOR.full_name


def read_details(
    declared: Iterable[str],
    message: Callable[[str, str], type[Message]],
    error: Callable[[str, str], Exception],
) -> tuple[type[Message], ...]:
    """The classes of the messages, in the contract's order.

    `message` gives the class of the message that an option names, `error` what to raise for an option and a problem.
    """
    found: list[type[Message]] = []
    for position, name in enumerate(declared):
        option = f"errors[{position}]"
        if not name:
            raise error(option, "it is empty; name a message, or leave it out")
        kind = message(option, name)
        full_name = kind.DESCRIPTOR.full_name
        if full_name == _INFO:
            raise error(option, f"every failure carries a {_INFO}; leave it out")
        if kind in found:
            raise error(option, f"{full_name} is declared twice; leave one out")
        found.append(kind)
    return tuple(found)


def known_type(name: str, type: OperationType | None) -> type[Message] | None:
    """The class of the message with this full name, if this program or the files of the contract know it."""
    pools = [descriptor_pool.Default()]
    if type is not None:
        pools.append(type.method.containing_service.file.pool)
    for pool in pools:
        try:
            return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        except KeyError:
            continue
    return None
