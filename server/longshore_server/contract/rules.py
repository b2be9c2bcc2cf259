"""The `buf.validate` rules of contracts, enforced by protovalidate: compiled at start-up, checked in every message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message

from longshore_server.contract.source import ContractError
from longshore_server.errors import Reason, ServiceError, Violation

_FILE = "buf/validate/validate.proto"
_FIELD, _MESSAGE = "buf.validate.field", "buf.validate.message"
# What CEL says of an expression that no message can satisfy: it has no types before it is evaluated. Of a null it says
# the same although the next message may have a value there.
_MISTAKES = ("No matching overloads found", "No value with name", "outputs an unexpected type", "no_such_field")
_NULL = "null"
MAX_HELD = 250
"""How many fields and items a message may have, with those of the messages in it, for all of its broken rules to be
told."""

MAX_MESSAGES = 100_000
"""How many messages a message with rules may hold. All of them are Python's while they are checked, and protobuf looks
for each of those among all others: half a million may take ten seconds and more."""


@cache
def has_rules(file: FileDescriptor) -> bool:
    """Whether a contract file, or one that it imports, can hold rules: half a second of import is saved otherwise."""
    return any(d.name == _FILE or has_rules(d) for d in file.dependencies)


def check_rules(message: Message, size: int) -> None:
    """Enforce the rules of a message of so many bytes. Raises `ServiceError` (INVALID_ARGUMENT, INPUT_TOO_LARGE).

    A rule that cannot be decided, because its expression fails on what the message holds, is broken as well. Of a
    message that has more than `MAX_HELD` fields and items only the first broken rule is told, and of one that cannot be
    decided not where it is.
    """
    # Each takes two bytes at least.
    if size >= 2 * MAX_MESSAGES and _room_left(message, MAX_MESSAGES) < 0:
        name = message.DESCRIPTOR.full_name
        problem = f"This {name} holds more messages than the server checks, {MAX_MESSAGES}: send less."
        raise ServiceError(Reason.INPUT_TOO_LARGE, problem, metadata={"limit": str(MAX_MESSAGES)})
    try:
        broken = _collector()(message, fail_fast=True)
        if not broken:
            return
        if _is_small(message):
            broken = _collector()(message)
    except _protovalidate().EvaluationError as error:
        place = _undecided(message) if _is_small(message) else ""
        found = [Violation(place, f"its rule cannot be decided: {_first_line(error)}")]
    else:
        found = [Violation(_path(one.proto.field), one.proto.message or one.proto.rule_id) for one in broken]
    first = found[0]
    where = f"{first.field}: " if first.field else ""
    raise ServiceError(Reason.INVALID_ARGUMENT, f"{where}{first.description}.", violations=found)


def _room_left(message: Message, room: int) -> int:
    """How many of so many messages are left when those that a message holds are taken from them; negative: too few."""
    for field, value in message.ListFields():
        held = _held_by(field)
        if held is None:
            continue
        room -= len(value) if field.is_repeated else 1
        if room >= 0 and _holds_messages(held):
            for _, one in _messages(field, value):
                room = _room_left(one, room)
                if room < 0:
                    break
        if room < 0:
            break
    return room


def _held_by(field: FieldDescriptor) -> Descriptor | None:
    """What messages a field holds: of a map its values."""
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        kind = kind.fields_by_name["value"].message_type
    return kind


@cache
def _holds_messages(descriptor: Descriptor) -> bool:
    return any(_held_by(field) is not None for field in descriptor.fields)


def _is_small(message: Message) -> bool:
    """Whether to look for all that is wrong with a message keeps nobody waiting: two bytes may break many rules, a
    violation takes kilobytes, and a message may have room for a million."""
    room, waiting = MAX_HELD, [message]
    while waiting:
        for field, value in waiting.pop().ListFields():
            room -= len(value) if field.is_repeated else 1
            if room < 0:
                return False
            waiting.extend(held for _, held in _messages(field, value))
    return True


def compile_rules(messages: Iterable[type[Message]], *, keep: bool = True) -> None:
    """Compile the rules of these messages and of all that they hold.

    `keep`: for `check_rules`, by the messages' names; False: to see whether they compile, as they may be others soon.
    Raises `ContractError` for a rule that does not compile, or that no message can satisfy.
    """
    seen: set[str] = set()
    collect: Any = None
    for message in messages:
        root: Any = message.DESCRIPTOR
        if has_rules(root.file):
            collect = collect or (_collector() if keep else _protovalidate().Validator().collect_violations)
            for descriptor in _held(root, seen):
                _compile(descriptor, collect)


def _held(descriptor: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    """The message and those that its fields hold, each after those that it holds itself."""
    if descriptor.full_name not in seen:
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            if field.message_type is not None:
                yield from _held(field.message_type, seen)
        yield descriptor


def _compile(descriptor: Descriptor, collect: Any) -> None:
    problem = _mistake(_filled(message_factory.GetMessageClass(descriptor)), collect)
    if problem is None:
        return
    for field in (field.name for field in descriptor.fields):
        kind, collect_alone = _alone(descriptor, field)
        if _mistake(_filled(kind), collect_alone) is not None:
            place, option = f"{descriptor.full_name}.{field}", _FIELD
            break
    else:
        place, option = descriptor.full_name, _MESSAGE
    raise ContractError(f"{descriptor.file.name}: {place}: option ({option}): {problem}")


def _mistake(message: Message, collect: Any) -> str | None:
    """What is wrong with the rules themselves; None: nothing that shows."""
    try:
        collect(message)
    except _protovalidate().CompilationError as error:
        return _first_line(error)
    except _protovalidate().EvaluationError as error:
        problem = _first_line(error)
        return problem if any(text in problem for text in _MISTAKES) and _NULL not in problem else None
    return None


def _first_line(error: Exception) -> str:
    """What it says; the lines after that draw where in the expression it is."""
    return str(error).partition("\n")[0]


def _filled(kind: type[Message]) -> Message:
    """A message with something in every field, so that rules on items and on what is set are evaluated, too."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, item = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            if item.message_type is None:
                value[_some(key)] = _some(item)
            else:
                value[_some(key)].SetInParent()
        elif field.is_repeated:
            if field.message_type is None:
                value.append(_some(field))
            else:
                value.add()
        elif field.message_type is None:
            setattr(message, field.name, _some(field))
        else:
            value.SetInParent()
    return message


def _some(field: Any) -> str | bytes | int:
    if field.type == field.TYPE_STRING:
        return "1"
    if field.type == field.TYPE_BYTES:
        return b"1"
    return field.enum_type.values[-1].number if field.enum_type is not None else 1


def _undecided(message: Message, path: str = "") -> str:
    """The path of the field whose rule fails on this message; that of the message around it where no field's does."""
    for field, value in message.ListFields():
        for place, held in _messages(field, value):
            if _fails(held, _collector()):
                return _undecided(held, f"{path}{place}.")
    descriptor: Any = message.DESCRIPTOR
    names: Iterable[str] = descriptor.fields_by_name
    for name in names:
        kind, collect = _alone(descriptor, name)
        if _fails(kind.FromString(message.SerializeToString()), collect):
            return path + name
    return path.removesuffix(".")


def _messages(field: FieldDescriptor, value: Any) -> Iterable[tuple[str, Message]]:
    """The messages that a field holds, each with its place."""
    kind = field.message_type
    if kind is None:
        return []
    if not field.is_repeated:
        return [(field.name, value)]
    items: Iterable[tuple[Any, Message]] = enumerate(value)
    if kind.GetOptions().map_entry:
        items = value.items() if kind.fields_by_name["value"].message_type is not None else ()
    return [(f"{field.name}[{key}]", item) for key, item in items]


def _fails(message: Message, collect: Any) -> bool:
    try:
        collect(message)
    except _protovalidate().EvaluationError:
        return True
    return False


@cache
def _alone(descriptor: Descriptor, field: str) -> tuple[type[Message], Any]:
    """The same message without any rules of its own but those of one field, and what collects their violations.

    The errors of protovalidate do not say where they happened.
    """
    pool = descriptor_pool.DescriptorPool()
    _copy(descriptor.file, pool, descriptor, field, set())
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(descriptor.full_name))
    return kind, _protovalidate().Validator().collect_violations


def _copy(
    file: FileDescriptor, pool: descriptor_pool.DescriptorPool, changed: Descriptor, field: str, done: set[str]
) -> None:
    if file.name in done:
        return
    done.add(file.name)
    for dependency in file.dependencies:
        _copy(dependency, pool, changed, field, done)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    if file.name == changed.file.name:
        message = _declared(proto, changed)
        others = (other for other in message.field if other.name != field)
        holders: Iterable[Any] = (message, *message.oneof_decl, *others)
        for holder in holders:
            _drop_rules(holder.options)
    pool.Add(proto)


def _declared(file: descriptor_pb2.FileDescriptorProto, message: Descriptor) -> descriptor_pb2.DescriptorProto:
    outer = message.containing_type
    kinds = file.message_type if outer is None else _declared(file, outer).nested_type
    return next(kind for kind in kinds if kind.name == message.name)


def _drop_rules(options: Any) -> None:
    for extension, _ in options.ListFields():
        if extension.is_extension and extension.file.name == _FILE:
            options.ClearExtension(extension)


@cache
def _protovalidate() -> Any:
    import protovalidate

    return protovalidate


@cache
def _collector() -> Any:
    """What collects the violations of a message. It keeps what it has compiled."""
    # The module's own function hands on to the same in Python, which makes each check a tenth dearer.
    return _protovalidate().Validator().collect_violations


def _path(field_path: Any) -> str:
    if field_path is None:
        return ""
    parts = []
    for element in field_path.elements:
        part = element.field_name
        subscript = getattr(element, "subscript", None)
        if subscript is not None:
            part += f"[{getattr(subscript, 'value', subscript)}]"
        parts.append(part)
    return ".".join(parts)
