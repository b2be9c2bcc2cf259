"""An operation type: one method of a contract, with everything that its options say, checked and resolved."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from longshore.v1 import annotations_pb2
from longshore_server.contract.retry import RetryPolicy
from longshore_server.contract.rules import has_rules
from longshore_server.contract.signals import SignalType
from longshore_server.contract.template import IdTemplate
from longshore_server.contract.transfers import Transfer

Handler = Callable[[Message, Any], Coroutine[Any, Any, Message | None]]
"""A service's method: `async (request, op) -> result`."""

_EMPTY = Empty.DESCRIPTOR.full_name
URL_PREFIX = "type.googleapis.com/"
"""What type URLs begin with (google/protobuf/any.proto)."""


@dataclass(frozen=True, eq=False)
class OperationType:
    """One kind of operation that this server runs. Durations in microseconds."""

    name: str
    """`package.Service/Method`."""
    method: MethodDescriptor
    handler: Handler
    input: type[Message]
    progress: type[Message]
    output: type[Message]
    result: type[Message]
    contract: annotations_pb2.OperationContract
    call: frozenset[str] | None
    """The capabilities of who may start; None: nobody may, which no server with authentication accepts."""
    observe: frozenset[str] | None
    """Of who may see; None as for `call`."""
    cancel: frozenset[str] | None
    """Of who may cancel, stop and delete; None: no caller may."""
    control: frozenset[str] | None
    """Of who may signal; None: no caller may."""
    owned: bool
    """Whether of those who may see only the one who started an operation sees it."""
    template: IdTemplate | None
    renew: bool
    """Whether a start under the name of an ended operation begins a new one."""
    cancellable: bool
    cooperative: bool
    cancel_grace: int
    timeout: int | None
    """From acceptance to the deadline; None: unbounded."""
    attempt_timeout: int | None
    rerun: bool
    max_crashes: int
    fixed_steps: bool
    """Whether an attempt fails that does not ask for a step that is recorded."""
    retry: RetryPolicy | None
    """When a failed attempt is made again; None: never."""
    retention: int | None
    """How long an ended operation is kept; 0: for ever; None: as the server's configuration says."""
    signals: Mapping[str, SignalType]
    """What callers may send to a running operation, by name."""
    transfer: Transfer | None
    """The bytes that belong to its operations; None: none do."""
    details: tuple[type[Message], ...]
    """What its failures may carry, besides others."""
    streamed_by: str = ""
    """Path of the method that starts and watches in one call, if the contract has one."""
    description: str = ""
    keyed: bool = field(init=False)
    """Whether the input has an idempotency key of its own, a string field `request_id` (AIP-155)."""
    ruled: bool = field(init=False)
    """Whether the input's file can hold `buf.validate` rules."""
    progress_url: str = field(init=False)
    output_url: str = field(init=False)
    result_url: str = field(init=False)

    def __post_init__(self) -> None:
        key = self.input.DESCRIPTOR.fields_by_name.get("request_id")
        object.__setattr__(self, "keyed", key is not None and key.type == key.TYPE_STRING)
        object.__setattr__(self, "ruled", has_rules(self.input.DESCRIPTOR.file))
        for channel in ("progress", "output", "result"):
            message: type[Message] = getattr(self, channel)
            object.__setattr__(self, f"{channel}_url", URL_PREFIX + message.DESCRIPTOR.full_name)

    @property
    def path(self) -> str:
        """Path of the typed RPC, as gRPC spells it."""
        return f"/{self.name}"

    @property
    def package(self) -> str:
        """The contract's proto package: the domain of the errors that its handlers raise."""
        return str(self.method.containing_service.file.package)

    def messages(self) -> Iterator[type[Message]]:
        """All that callers and providers send."""
        yield from (self.input, self.progress, self.output, self.result)
        yield from (signal.payload for signal in self.signals.values())

    def void(self, channel: type[Message]) -> bool:
        """Whether a channel is declared as empty."""
        return channel.DESCRIPTOR.full_name == _EMPTY
