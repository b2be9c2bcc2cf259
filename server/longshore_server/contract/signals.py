"""The signals that a contract declares: who may say what to an operation that runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from longshore.v1 import annotations_pb2
from longshore_server.contract.rules import has_rules

MAX_PENDING = 100
"""How many signals of one name may wait where the contract does not say."""
HIGHEST_PENDING = 1000
"""The most of one name that a contract may allow."""
ALL_PENDING = 2000
"""The most of all names together: every snapshot names them all, and has to fit into what clients receive."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, eq=False)
class SignalType:
    """One kind of signal."""

    name: str
    payload: type[Message]
    max_pending: int
    """How many may wait to be consumed."""
    ruled: bool = field(init=False)
    """Whether the payload's file can hold `buf.validate` rules."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ruled", has_rules(self.payload.DESCRIPTOR.file))


def read_signals(
    declared: Iterable[annotations_pb2.SignalContract],
    message: Callable[[str, str], type[Message]],
    error: Callable[[str, str], Exception],
) -> Mapping[str, SignalType]:
    """The signals by name, in the contract's order.

    `message` gives the class of the message that an option names, `error` what to raise for an option and a problem.
    """
    found: dict[str, SignalType] = {}
    for position, signal in enumerate(declared):
        option = f"signals[{position}]"
        if not _NAME.fullmatch(signal.name):
            problem = (
                f"{signal.name!r} must be at most 63 lower-case letters, digits, '_' and '-', the first one a letter, "
                "for example 'approve'"
            )
            raise error(
                f"{option}.name", problem if signal.name else "it is missing; callers send a signal by its name"
            )
        if signal.name in found:
            raise error(f"{option}.name", f"{signal.name!r} is declared twice; give each signal a name of its own")
        payload = message(f"{option}.payload_type", signal.payload_type)
        if not 0 <= signal.max_pending <= HIGHEST_PENDING:
            raise error(
                f"{option}.max_pending",
                f"it must be between 0 and {HIGHEST_PENDING}, not {signal.max_pending}; 0 means {MAX_PENDING}",
            )
        found[signal.name] = SignalType(signal.name, payload, signal.max_pending or MAX_PENDING)
    together = sum(signal.max_pending for signal in found.values())
    if together > ALL_PENDING:
        problem = f"together {together} signals may wait, at most {ALL_PENDING} may: give some a lower max_pending"
        raise error("signals", problem)
    return found
