"""What is sent: requests that are built from the descriptors of whatever the server serves, good ones and spoilt ones.

A field whose name says what it holds mostly gets something that fits, so that calls come far into the server; the
others, and in a wild request all of them, get anything that their type can hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import google_crc32c
from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from hypothesis import strategies as st

from longshore.v1 import operations_service_pb2 as pb
from tests.fuzz.durable import DEFINITIONS
from tests.fuzz.source import (
    BITS,
    FEW,
    FILTER,
    FITTING,
    FLOATS,
    INTERVALS,
    KEYS,
    METADATA,
    NESTING,
    NUMBERS,
    ODD,
    SIZES,
    TIMEOUTS,
    Source,
    spoilt,
)

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
F = FieldDescriptor
DEPTH = 3
"""How deep messages are filled; deeper ones stay empty."""
NEEDED = (
    "name",
    "resource_name",
    "type",
    "signal",
    "script",
    "key",
    "error",
    "code",
    "message",
    "done",
    "day",
    "text",
    "title",
)
"""Fields that a good request always has."""
INSTANCES = {f"longshore/v1/{definition.split('s/')[0]}_service.proto": definition for definition in DEFINITIONS}
"""The definition that the requests of a file are about."""
BYTES = ("QueryUploadRequest", "AbortUploadRequest", "DownloadRequest", "RevokeDownloadRequest")
"""Messages whose `name` is that of an upload or a download."""
FROM_THE_FIRST = ("offset", "read_offset", "write_offset", "part", "limit", "read_limit", "total_size")
"""Numbers that mostly fit if they are none."""


@dataclass(frozen=True)
class Method:
    """One RPC of the server."""

    path: str
    input: type[Message]
    output: type[Message]
    takes_stream: bool
    gives_stream: bool
    contract: bool
    """Whether it is one of a contract: it starts operations of one type."""

    @classmethod
    def of(cls, path: str, method: MethodDescriptor, *, contract: bool) -> Method:
        """The RPC that is served under `path`."""
        return cls(
            path, GetMessageClass(method.input_type), GetMessageClass(method.output_type), method.client_streaming,
            method.server_streaming, contract,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.rpartition("/")[2]

    @property
    def sends(self) -> bool:
        """Whether it sends many requests for one answer: bytes, then, of which those before a refusal are kept."""
        return self.takes_stream and not self.gives_stream

    @property
    def reads(self) -> bool:
        """Whether it never writes, by its name."""
        words = ("Get", "List", "Count", "Wait", "Watch", "Check", "ServerReflectionInfo")
        return not self.contract and self.name.startswith(words)


class Known(NamedTuple):
    """An operation that the server has told of."""

    name: str
    uid: str
    type: str


@dataclass(frozen=True)
class Call:
    """One input: a call and everything that it says."""

    method: Method
    requests: tuple[bytes, ...]
    metadata: Metadata
    timeout: float | None
    leave: bool
    """The caller goes away at once."""

    def __repr__(self) -> str:
        return f"Call({self.method.path!r}, {self.requests!r}, {self.metadata!r}, {self.timeout!r}, leave={self.leave})"

    def waits(self) -> float | None:
        """How many seconds of the server's clock the answer may take: 0 is none, None is any number of them."""
        if self.method.takes_stream:
            return 0
        if self.method.gives_stream or any(key == "longshore-wait" for key, _ in self.metadata):
            return None
        try:
            request: Any = self.method.input.FromString(self.requests[0])
        except DecodeError:
            return 0
        if "no_wait" in request.DESCRIPTOR.fields_by_name and not request.no_wait:
            return None  # until a handler has run
        for field in ("wait", "timeout"):
            if field in request.DESCRIPTOR.fields_by_name and request.HasField(field):
                wait: Duration = getattr(request, field)
                return max(0.0, wait.seconds + wait.nanos / 1e9)
        return None if self.method.name.startswith("Wait") else 0


class Requests:
    """Builds calls for one server, with what it has told so far.

    Args:
        methods: every RPC that it serves.
        callers: the tokens by whose they are; empty: nobody has to say who calls.
        types: every operation type that it serves.
    """

    def __init__(
        self, methods: Sequence[Method], callers: Mapping[str, str], types: Sequence[pb.OperationType]
    ) -> None:
        self.methods = methods
        self.callers = callers
        self._contract = [method for method in methods if method.contract]
        self._own = [method for method in methods if not method.contract]
        named = {"name", "resource_name"}
        self._about = [m for m in self._own if not m.takes_stream and named & {*m.input.DESCRIPTOR.fields_by_name}]
        self._about += [m for m in self._own if m.sends] * 10
        # What goes well only for few operations, and only after another call, is tried more often.
        self._about += [m for m in self._about if {"signal", "number"} & {*m.input.DESCRIPTOR.fields_by_name}] * 6
        self._about += [m for m in self._about if "resource_name" in m.input.DESCRIPTOR.fields_by_name] * 3
        # Most can be done to operations that take signals, or bytes.
        often = {type.type: 12 if type.contract.HasField("transfer") else 4 if type.contract.signals else 1
                 for type in types}  # fmt: skip
        self._starting = [method for method in self._contract for _ in range(often.get(method.path[1:], 1))]
        self._starting += [method for method in self._own if method.name in ("Start", "Run")] * 4
        self._who = [*callers, *["ada"] * 12, "bob", "jay"] if callers else []
        self._types = {type.type: type for type in types}
        self.known: list[Known] = []
        self.page_tokens: list[str] = []
        self.jobs: list[str] = []

    def calls(self) -> st.SearchStrategy[Call]:
        """Calls of every kind, spoilt or not."""
        return st.composite(lambda draw: self._any(Source.of(draw)))()

    def starts(self) -> st.SearchStrategy[Call]:
        """Good starts."""
        return st.composite(lambda draw: self._good(Source.of(draw), self._starting))()

    def steers(self) -> st.SearchStrategy[Call]:
        """Good calls about an operation that is known."""
        return st.composite(lambda draw: self._good(Source.of(draw), self._about))()

    def _any(self, source: Source) -> Call:
        method = source.pick(self._contract if source.percent(30) else self._own)
        wild, spoil = source.percent(30), source.percent(30)
        requests = []
        if method.sends and source.percent(70):
            made = self._sent(source, method, wild=wild)
        else:
            made = [method.input() for _ in range(source.pick(FEW) if method.takes_stream else 1)]
            for request in made:
                self._fill(source, request, DEPTH, wild=wild)
        for request in made:
            data = request.SerializeToString()
            requests.append(spoilt(source, data) if spoil else data)
        metadata = self._authorization(source, wild=True)
        if source.percent(40 if method.contract else 10):
            metadata += tuple(source.pick(METADATA) for _ in range(1 + source.number(3)))
        timeout, leave = source.pick(TIMEOUTS), source.percent(3)
        if method.takes_stream:
            # A client of grpc.aio whose stream ends while it sends tells of a broken call, and not how it ended.
            timeout, leave = None, False
        return Call(method, tuple(requests), metadata, timeout, leave)

    def _good(self, source: Source, methods: Sequence[Method]) -> Call:
        method = source.pick(methods)
        if method.sends:
            made = self._sent(source, method, wild=False)
        else:
            made = [method.input()]
            self._fill(source, made[0], DEPTH, wild=False)
        requests = tuple(request.SerializeToString() for request in made)
        return Call(method, requests, self._authorization(source, wild=False), None, False)

    def _sent(self, source: Source, method: Method, *, wild: bool) -> list[Any]:
        """The requests by which bytes are sent in order, from the first on, and perhaps finished."""
        name = self._text(source, method.input(), "resource_name", wild=wild)
        data = [bytes(source.pick(SIZES)) for _ in range(source.number(4))]
        finished, whole, offset = source.percent(60), b"".join(data), 0
        made: list[Any] = []
        if method.name == "Write":
            for part in data or [b""]:
                made.append(method.input(write_offset=offset, data=part))
                offset += len(part)
            made[0].resource_name, made[-1].finish_write = name, finished
            return made
        made.append(method.input(header={"upload": name}))
        for part in data:
            made.append(method.input(chunk={"offset": offset, "data": part, "crc32c": google_crc32c.value(part)}))
            offset += len(part)
        if finished:
            digest = hashlib.sha256(whole).digest() if source.percent(70) else b""
            made.append(method.input(commit={"total_size": offset, "sha256": digest}))
        return made

    def _authorization(self, source: Source, *, wild: bool) -> Metadata:
        if not self._who:
            return ()
        token = self.callers[source.pick(self._who)]
        if wild and source.percent(3):
            return ()
        if wild and source.percent(8):
            at = source.number(len(token))
            token = source.pick([token[:at], token[:at] + "A" + token[at + 1 :], token[at:], token + token])
        return (("authorization", f"Bearer {token}"),)

    # Messages.

    def _fill(self, source: Source, message: Message, depth: int, *, wild: bool) -> None:
        for oneof in message.DESCRIPTOR.oneofs:
            if oneof.name.startswith("_") and source.percent(40):
                continue  # a field that may be left out
            self._set(source, message, source.pick(oneof.fields), depth, wild=wild)
        for field in message.DESCRIPTOR.fields:
            needed = field.name in NEEDED and not wild
            if field.containing_oneof is None and (needed or source.percent(60)):
                self._set(source, message, field, depth, wild=wild)

    def _set(self, source: Source, message: Message, field: Any, depth: int, *, wild: bool) -> None:
        if field.is_repeated:
            self._repeat(source, message, field, depth, wild=wild)
        elif field.type == F.TYPE_MESSAGE:
            self._message(source, message, getattr(message, field.name), field, depth, wild=wild)
        elif field.type == F.TYPE_STRING:
            setattr(message, field.name, self._text(source, message, field.name, wild=wild))
        else:
            setattr(message, field.name, _scalar(source, field, wild=wild))

    def _repeat(self, source: Source, message: Message, field: FieldDescriptor, depth: int, *, wild: bool) -> None:
        values, count, kind = getattr(message, field.name), source.pick(FEW), field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            texts = source.seeded()
            for number in range(count):
                key = texts.text() if wild else f"{texts.pick(KEYS)}{number or ''}"
                values[key] = texts.text() if wild else texts.pick(KEYS)
        elif not count:
            pass
        elif kind is not None:
            # One value many times: how many there are is the point, not what each is.
            made = values.add()
            self._message(source, message, made, field, depth, wild=wild)
            values.extend([made] * (count - 1))
        elif field.type == F.TYPE_STRING:
            values.extend([self._text(source, message, field.name, wild=wild)] * count)
        else:
            values.extend([_scalar(source, field, wild=wild)] * count)

    def _message(
        self, source: Source, parent: Message, message: Any, field: FieldDescriptor, depth: int, *, wild: bool
    ) -> None:
        message.SetInParent()
        kind = message.DESCRIPTOR.full_name
        if kind == "google.protobuf.Any":
            self._pack(source.seeded(), parent, message, field, depth, wild=wild)
        elif kind == "google.protobuf.Duration":
            message.seconds, message.nanos = source.pick(INTERVALS) if wild else (source.number(20), 0)
        elif depth:
            self._fill(source, message, depth - 1, wild=wild)

    def _pack(
        self, source: Source, parent: Any, packed: AnyMessage, field: FieldDescriptor, depth: int, *, wild: bool
    ) -> None:
        kind = self._asked(source, parent, field)
        if kind is None or source.percent(25 if wild else 3):
            types = [type.input_type for type in self._types.values()]
            kind = source.pick([AnyMessage, error_details_pb2.ErrorInfo, pb.StartRequest, _class(source.pick(types))])
        inner = kind()
        if depth:
            self._fill(source, inner, depth - 1, wild=wild)
        packed.Pack(inner)
        if wild and source.percent(30):
            packed.value = spoilt(source, packed.value)
        if wild and source.percent(20):
            packed.type_url = source.text() + source.pick(["", f"/{kind.DESCRIPTOR.full_name}"])
        for _ in range(source.pick(NESTING) if wild else 0):
            packed.Pack(packed)

    def _asked(self, source: Source, parent: Any, field: FieldDescriptor) -> type[Message] | None:
        """The message that the contract asks for in this place; None: nobody knows."""
        fields = parent.DESCRIPTOR.fields_by_name
        if "type" in fields and parent.type in self._types:
            return _class(self._types[parent.type].input_type)
        type = self._type_of(parent)
        if type is None:
            return None
        if field.name == "payload":
            payload = next((s.payload_type for s in type.contract.signals if s.name == parent.signal), "")
            return (
                _class(payload if "." in payload else f"{type.type.rpartition('.')[0]}.{payload}") if payload else None
            )
        return _class({"progress": type.progress_type, "output": type.output_type}.get(field.name, type.result_type))

    def _type_of(self, request: Any) -> pb.OperationType | None:
        """The type of the operation that a request is about, if that is known."""
        name = request.name if "name" in request.DESCRIPTOR.fields_by_name else ""
        names = (known.type for known in self.known if name in (known.name, f"operations/{known.uid}"))
        return self._types.get(next(names, ""))

    def _text(self, source: Source, message: Message, field: str, *, wild: bool) -> str:
        if wild and source.percent(40):
            text = source.text()
            return text * (1 + source.pick(SIZES) // (1 + len(text.encode()))) if source.percent(20) else text
        if field in ("upload", "resource_name") or message.DESCRIPTOR.name in BYTES:
            offered = message.DESCRIPTOR.name.startswith(("Download", "Read", "Revoke"))
            return self._transfer(source.number(2**16), source.pick(ODD), offered=offered)
        if field in ("name", "parent") and message.DESCRIPTOR.file.name in INSTANCES:
            parent = INSTANCES[message.DESCRIPTOR.file.name]
            fitting = [parent] if field == "parent" else [f"{parent}/instances/{key}" for key in KEYS]
            return source.pick(fitting if source.percent(90) else ODD)
        if field == "name" and message.DESCRIPTOR.file.name == "longshore/v1/jobs_service.proto":
            queue = "Queue" in message.DESCRIPTOR.name
            return source.pick(["queues/work"] if queue else self.jobs) if source.percent(90) else source.pick(ODD)
        if field == "name":
            if "filter" in message.DESCRIPTOR.fields_by_name:
                return source.pick(["", "operations"])
            return self._name(source.number(2**16), source.pick(ODD))
        if field == "filter" and message.DESCRIPTOR.name.endswith("DeadLettersRequest") and source.percent(60):
            return "queue=work"
        if field == "filter":
            chosen = source.seeded()
            return "".join(chosen.pick(part) for _ in range(chosen.number(4)) for part in FILTER)
        known: Sequence[str] = FITTING.get(field, ())
        if field == "script" and "content_type" in message.DESCRIPTOR.fields_by_name:
            # What ends at once takes no bytes.
            known = ("wait", "wait", "stop", "transfer", "transfer", "raise")
        type = self._type_of(message) if field == "signal" else None
        if type is not None and type.contract.signals:
            known = [signal.name for signal in type.contract.signals]
        if field == "type":
            known = [*self._types]
        elif field == "uid":
            known = [known.uid for known in self.known]
        elif field == "page_token":
            known = self.page_tokens
        elif not known:
            return source.text()
        number = source.number(2**16)
        return known[number % len(known)] if known else ""

    def _transfer(self, number: int, odd: str, *, offered: bool) -> str:
        # Of few types an operation has one.
        kind = "/Fetch" if offered else "/Put"
        fitting = [known for known in self.known if known.uid and kind in known.type] or self.known
        if number % 100 >= 95 or not fitting:
            return odd
        # One of the latest: the others may have ended.
        uid = fitting[-1 - number % min(4, len(fitting))].uid
        return f"downloads/{uid}.1" if offered else f"uploads/{uid}"

    def _name(self, number: int, odd: str) -> str:
        if number % 100 >= 95 or not self.known:
            return odd
        known = self.known[number % len(self.known)]
        return known.name if number % 3 or not known.uid else f"operations/{known.uid}"


def _scalar(source: Source, field: Any, *, wild: bool) -> Any:
    if field.type == F.TYPE_BYTES:
        return bytes(source.pick(SIZES))
    if field.type == F.TYPE_BOOL:
        return source.percent(50)
    if field.type in (F.TYPE_DOUBLE, F.TYPE_FLOAT):
        return source.pick(FLOATS)
    if field.type == F.TYPE_ENUM and not wild:
        return source.pick(field.enum_type.values).number
    low, high = BITS[field.type]
    if field.name in FROM_THE_FIRST and not wild:
        return 0
    return min(high, max(low, source.pick(NUMBERS))) if wild else 1 + source.number(4)


def _class(name: str) -> type[Message]:
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
