"""What programs give this library, checked before anything is sent: each error names the argument and what it takes."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound=Message)

_WANTED = {
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_INT32: "a whole number",
    FieldDescriptor.CPPTYPE_INT64: "a whole number",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number",
}


def called(value: object) -> str:
    """What a value is, for the text of an error."""
    if isinstance(value, Message):
        return str(value.DESCRIPTOR.full_name)
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_message(value: object, expected: type[Message], taker: str) -> Message:
    """Return a message that is to be sent, if it is one of the type that `taker` takes; `Message` itself: any.

    Raises:
        TypeError: It is something else.
    """
    wanted = "a message" if expected is Message else expected.DESCRIPTOR.full_name
    given = called(value)
    if isinstance(value, Message) and (expected is Message or given == wanted):
        return value
    raise TypeError(f"{taker} takes {wanted}, not {given}")


def check_text(what: str, value: object) -> str:
    """Return a text, if it is one.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(value, str):
        return value
    hint = "" if value is None or isinstance(value, bytes) else ": give str() of it"
    raise TypeError(f"{what} is a text, not {called(value)}{hint}")


def check_texts(what: str, value: object) -> None:
    """See that a value maps texts to texts; names that end with `-bin`, as of gRPC's metadata, to bytes.

    Raises:
        TypeError: It does not.
    """
    if not hasattr(value, "items"):
        raise TypeError(f"{what} is a dict of texts, not {called(value)}")
    for key, text in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{what}: the key {key!r} is a text, not {called(key)}: give str() of it")
        if not (isinstance(text, bytes) and key.endswith("-bin")):
            check_text(f"{what}[{key!r}]", text)


def check_seconds(what: str, value: object) -> float:
    """Return a time in seconds, if it is one.

    Raises:
        TypeError: It is no number.
        ValueError: It is NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is a number of seconds, not {called(value)}")
    if value != value:  # as NaN alone
        raise ValueError(f"{what} is a number of seconds, not NaN")
    return value


def check_whole(what: str, value: object) -> int:
    """Return a whole number, if it is one.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"{what} is a whole number, not {called(value)}")


def check_flag(what: str, value: object) -> bool:
    """Return whether something is so.

    Raises:
        TypeError: It is no bool: the text `"no"` would mean yes.
    """
    if isinstance(value, bool):
        return value
    raise TypeError(f"{what} is True or False, not {called(value)}")


def check_function(what: str, value: object) -> None:
    """See that a value can be called.

    Raises:
        TypeError: It cannot.
    """
    if not callable(value):
        raise TypeError(f"{what} is a function, not {called(value)}")


def request_of(kind: type[MessageT], **fields: Any) -> MessageT:
    """Make a request of arguments that have the names of its fields.

    Raises:
        TypeError: One of them is of another type.
        ValueError: One of them is a value that the field cannot have.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        # The constructors of messages do not say which it was, nor what it may be.
        for name, value in fields.items():
            _check_field(kind, name, value)
        raise


def _check_field(kind: type[Message], name: str, value: object) -> None:
    try:
        kind(**{name: value})
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds what no text can: half of a character") from None
    except (TypeError, ValueError) as error:
        field = kind.DESCRIPTOR.fields_by_name[name]
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            check_text(name, value)
        if isinstance(error, ValueError) and field.enum_type is None:
            raise ValueError(f"{name}: {value!r} is out of range") from None
        wanted = _WANTED.get(field.cpp_type) if field.enum_type is None else f"one of {field.enum_type.name}"
        if wanted is not None:
            raise TypeError(f"{name} is {wanted}, not {called(value)}") from None
