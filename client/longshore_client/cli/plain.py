"""Messages of our own services as JSON values: what is not there is left out, and enums are short words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.v1.jobs_service_pb2 import JobValue
from longshore_client.cli.as_json import stamp
from longshore_client.codec import to_datetime
from longshore_client.errors import NotFound, Unimplemented

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longshore_client.cli.reflection import Types


async def learn(types: Types, message: Message) -> None:
    """Ask the server for the types of all that is packed in a message. What it does not describe stays packed."""
    for packed in _packed(message):
        try:
            await types.load(packed.type_url.rpartition("/")[2])
        except (NotFound, Unimplemented):
            continue


def plain(message: Message, types: Types) -> Any:
    """The JSON value of a message."""
    match message:
        case Timestamp():
            return stamp(to_datetime(message))
        case Duration():
            return message.ToMicroseconds() / 1_000_000
        case AnyMessage():
            return types.to_dict(message)
        case JobValue() if message.HasField("json"):
            return json.loads(message.json)
        case JobValue():
            return types.to_dict(message.message)
    return {
        field.name: [_value(field, item, types) for item in value] if _many(value) else _value(field, value, types)
        for field, value in message.ListFields()
    }


def word(message: Message, field: str) -> str:
    """The name of an enum's value without what all of them begin with: `QUEUED`."""
    return _word(message.DESCRIPTOR.fields_by_name[field].enum_type, getattr(message, field))


def _value(field: Any, value: Any, types: Types) -> Any:
    if isinstance(value, Message):
        return plain(value, types)
    return _word(field.enum_type, value) if field.enum_type is not None else value


def _word(kind: Any, number: int) -> str:
    known = kind.values_by_number.get(number)
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(number) if known is None else str(known.name).removeprefix(prefix)


def _packed(message: Message) -> Iterator[AnyMessage]:
    if isinstance(message, AnyMessage):
        yield message
        return
    for _, value in message.ListFields():
        for item in value if _many(value) else [value]:
            if isinstance(item, Message):
                yield from _packed(item)


def _many(value: object) -> bool:
    """Whether it is what a repeated field holds."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
