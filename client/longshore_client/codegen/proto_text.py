"""A `.proto` file in the words of the language, from its descriptor.

For files that an installed package has only as a descriptor, where compilers of other languages want text: of messages,
enums and extensions in proto2. Compile it again to know that nothing is lost.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf import descriptor_pb2
    from google.protobuf.message import Message

_INDENT = "  "
_NAMED = (FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM)
_MAX = 536_870_912
"""One more than the highest field number."""


def write_proto(file: descriptor_pb2.FileDescriptorProto, imports: Iterable[descriptor_pb2.FileDescriptorProto]) -> str:
    """Return the text of a file, without comments.

    Args:
        file: The file. Its options may be of its own making, as those of `buf/validate` are.
        imports: What it imports, and what that imports, so that every option has a name.
    """
    return "\n".join(_Writer(file, imports).lines()) + "\n"


class _Writer:
    def __init__(
        self, file: descriptor_pb2.FileDescriptorProto, imports: Iterable[descriptor_pb2.FileDescriptorProto]
    ) -> None:
        self._file = file
        # Of its own: the default one may hold another version of the same file.
        self._pool = descriptor_pool.DescriptorPool()
        for each in (*imports, file):
            self._pool.Add(each)

    def lines(self) -> Iterator[str]:
        file = self._file
        yield 'syntax = "proto2";'
        yield from ("", f"package {file.package};")
        yield ""
        for index, name in enumerate(file.dependency):
            kind = "public " if index in file.public_dependency else ""
            yield f'import {kind}"{name}";'
        yield ""
        yield from self._statements(file.options)
        yield from self._extensions(file.extension)
        for enum in file.enum_type:
            yield from ("", *self._enum(enum))
        for message in file.message_type:
            yield from ("", *self._message(message))

    def _message(self, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
        yield f"message {message.name} {{"
        yield from _indented(self._statements(message.options))
        for enum in message.enum_type:
            yield from _indented(self._enum(enum))
        for nested in message.nested_type:
            yield from _indented(self._message(nested))
        yield from _indented(self._extensions(message.extension))
        within: int | None = None
        for field in message.field:
            index = field.oneof_index if field.HasField("oneof_index") else None
            if index != within:
                if within is not None:
                    yield f"{_INDENT}}}"
                if index is not None:
                    yield f"{_INDENT}oneof {message.oneof_decl[index].name} {{"
                    yield from _indented(_indented(self._statements(message.oneof_decl[index].options)))
                within = index
            lines = self._field(field, label=index is None)
            yield from _indented(lines if index is None else _indented(lines))
        if within is not None:
            yield f"{_INDENT}}}"
        for span in message.extension_range:
            yield f"{_INDENT}extensions {_span(span.start, span.end)};"
        for reserved in message.reserved_range:
            yield f"{_INDENT}reserved {_span(reserved.start, reserved.end)};"
        for name in message.reserved_name:
            yield f'{_INDENT}reserved "{name}";'
        yield "}"

    def _enum(self, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
        yield f"enum {enum.name} {{"
        yield from _indented(self._statements(enum.options))
        for value in enum.value:
            yield from _indented(self._with_options(f"{value.name} = {value.number}", value.options))
        for reserved in enum.reserved_range:
            # Unlike that of a message, its end is part of it.
            yield f"{_INDENT}reserved {reserved.start} to {reserved.end};"
        for name in enum.reserved_name:
            yield f'{_INDENT}reserved "{name}";'
        yield "}"

    def _extensions(self, fields: Iterable[FieldDescriptorProto]) -> Iterator[str]:
        for field in fields:
            yield from ("", f"extend {field.extendee} {{", *_indented(self._field(field)), "}")

    def _field(self, field: FieldDescriptorProto, *, label: bool = True) -> Iterator[str]:
        kind = (
            field.type_name
            if field.type in _NAMED
            else FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        )
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        prefix = "" if not label else "repeated " if repeated else "optional "
        return self._with_options(f"{prefix}{kind} {field.name} = {field.number}", field.options)

    def _with_options(self, head: str, options: Message) -> Iterator[str]:
        given = ",\n".join(self._options(options))
        if given:
            yield from (f"{head} [", *_indented(given.split("\n")), "];")
        else:
            yield f"{head};"

    def _statements(self, options: Message) -> Iterator[str]:
        for option in self._options(options):
            yield from f"option {option};".split("\n")

    def _options(self, options: Message) -> Iterator[str]:
        """Each option as `name = value`; the pool knows those that are extensions, the class given here does not."""
        known = self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name)
        parsed: Any = message_factory.GetMessageClass(known).FromString(options.SerializeToString())
        for field, value in parsed.ListFields():
            name = f"({field.full_name})" if field.is_extension else field.name
            for each in value if field.is_repeated else (value,):
                out = io.StringIO()
                text_format.PrintFieldValue(field, each, out, as_utf8=True)
                yield f"{name} = {out.getvalue().strip()}"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"{_INDENT}{line}" for line in lines)


def _span(start: int, end: int) -> str:
    """A range of field numbers, whose end is not part of it."""
    if end == _MAX:
        return f"{start} to max"
    return str(start) if end == start + 1 else f"{start} to {end - 1}"
