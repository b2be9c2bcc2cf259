"""Where choices come from, and the values that are chosen among: those at the edges of what parsers and stores take."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias, TypeVar

from google.protobuf.descriptor import FieldDescriptor as F
from hypothesis import strategies as st

T = TypeVar("T")
Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]


class Source:
    """Choices: hypothesis's own, which it records, repeats and shrinks, or those of a seed that it has chosen.

    How many choices hypothesis makes must not depend on what the server has answered, which may differ from run to run;
    what does depend on that has a seed.
    """

    def __init__(self, number: Callable[[int], int]) -> None:
        self.number = number
        """One of so many, from 0."""

    @classmethod
    def of(cls, draw: Draw) -> Source:
        """Hypothesis's choices."""
        return cls(lambda count: int(draw(_below(count))))

    def seeded(self) -> Source:
        """Any number of choices for the price of one."""
        return Source(random.Random(self.number(2**32)).randrange)

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[self.number(len(values))]

    def percent(self, chance: int) -> bool:
        """True in so many of a hundred cases."""
        return self.number(100) >= 100 - chance

    def text(self) -> str:
        """Any text."""
        if self.percent(70):
            return self.pick(ODD)
        # Skips the surrogates, which are no text.
        points = [self.number(0x110000 - 0x800) for _ in range(self.number(6))]
        return "".join(chr(point if point < 0xD800 else point + 0x800) for point in points)


@cache
def _below(count: int) -> st.SearchStrategy[int]:
    return st.integers(0, count - 1)


BITS: dict[int, tuple[int, int]] = {
    F.TYPE_INT32: (-(2**31), 2**31 - 1), F.TYPE_SINT32: (-(2**31), 2**31 - 1), F.TYPE_SFIXED32: (-(2**31), 2**31 - 1),
    F.TYPE_INT64: (-(2**63), 2**63 - 1), F.TYPE_SINT64: (-(2**63), 2**63 - 1), F.TYPE_SFIXED64: (-(2**63), 2**63 - 1),
    F.TYPE_UINT32: (0, 2**32 - 1), F.TYPE_FIXED32: (0, 2**32 - 1), F.TYPE_UINT64: (0, 2**64 - 1),
    F.TYPE_FIXED64: (0, 2**64 - 1), F.TYPE_ENUM: (-(2**31), 2**31 - 1),
}  # fmt: skip
"""What the integer types of fields hold."""
NUMBERS = (
    0, 1, 1, 2, 3, 5, 16, 50, -1, 127, 1000, 1001, 2**31 - 1, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, -(2**63),
    2**64 - 1,
)  # fmt: skip
FLOATS = (0.0, 1.5, -1.0, float("inf"), float("nan"), 1e308)
SIZES = (0, 1, 7, 100, 128, 129, 1024, 4097, 65_530, 65_536, 70_000)
"""Of bytes and long texts; the server's bound is one of them."""
FEW = (0, 1, 1, 1, 2, 3, 40)
"""How often something is repeated."""
NESTING = (0, 0, 0, 0, 1, 2, 30, 300)
"""How often an Any is packed into another one."""
ODD = (
    "", " ", "\0", "a\0b", "\n", "\r\n", "\x7f", "\ufeff", "\u202eabc", "e\u0301", "\ufb01", "\u0130", "ß", "界" * 40,
    "👩\u200d👩\u200d👧", "\U0010ffff", "\ufffe", "%s%n", "../../etc/passwd", "';--", '"', "\\", "{key}", "${x}",
    "a" * 128, "a" * 129, "ü" * 64, "ü" * 65, "x" * 1025, "0", "-1", "null", "operations", "operations/",
    "operations//", "operations/a/b", "operations/-", "projects/p/operations/1", "OPERATIONS/x",
    "operations/" + "y" * 1100,
    "operations/\0", "operations/named-", "operations/named-a/", "operations/0199d2f0-0000-7000-8000-000000000000",
    "operations/0199D2F0-0000-7000-8000-000000000000", "operations/00000000-0000-0000-0000-000000000000",
)  # fmt: skip
KEYS = ("a", "b", "c", "d")
"""Few, so that names, request ids and labels meet again."""
SYMBOLS = (
    "", "longshore.v1.OperationsService", "lab.v1.PlayRequest", "lab.v1.SignalsService.Listen", "grpc.health.v1.Health",
    "google.protobuf.MethodOptions", "google.protobuf", "no.such.Thing",
)  # fmt: skip
FITTING: dict[str, Sequence[str]] = {
    "key": KEYS, "request_id": KEYS, "signal_id": KEYS, "reason": KEYS, "message": KEYS, "by": KEYS,
    "title": ("a title",), "text": ("a text",),
    "script": (
        "", "wait", "wait", "cancel", "stop", "sleep", "step", "report", "fail", "raise", "defer", "defer", "defer",
        "transfer",
        "signals", "signals", "signal",
    ),
    "signal": ("approve", "reject", "poke", "few", "plead", "object"),
    "json": ('"report"', '"report"', '"fail"', '"raise"', '"wait"', '""', "null", '{"a": [1]}'),
    "event_id": KEYS, "from_step": ("count", "none"),
    "order_by": ("", "create_time", "create_time desc", " create_time  desc ", "create_time asc", "name"),
    "file_by_filename": ("longshore/v1/operation.proto", "no.proto", ""),
    "file_containing_symbol": SYMBOLS, "containing_type": SYMBOLS, "all_extension_numbers_of_type": SYMBOLS,
    "service": SYMBOLS,
}  # fmt: skip
"""What fits into a text field of this name."""
FILTER = (
    (
        "state", "state", "type", "owner", "reason", "parent", "labels.a", "labels.", "labels.A b", "create_time",
        "start_time", "update_time", "end_time", "nothing", "NOT", "(", '"state"',
    ),
    ("=", "=", "=", "!=", "<", ">=", ":", "", " ", "=="),
    (
        "RUNNING", "STATE_FAILED", "PENDING", "running", '"lab.v1.SignalsService/Listen"', "ada", '"a b"', "''",
        '"2026-01-01T00:00:00Z"', '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59.999999-23:59"', "20260101",
        '"2026-W01-1"', '"\\\\', "界", '"\0"', "99999999999999999999", "", "AND", ")", "x" * 300,
    ),
    (" AND ", " AND ", " AND ", "", " OR ", "AND", " "),
)  # fmt: skip
"""The parts of a comparison, and what may follow it."""
INTERVALS = (
    (0, 0), (0, 1), (0, 999_999_999), (1, 0), (1, 0), (15, 0), (60, 0), (300, 0), (300, 1), (3600, 0), (-1, 0), (0, -1),
    (1, -1), (0, 10**9), (0, -(2**31)), (2**63 - 1, 2**31 - 1), (-(2**63), 0), (315_576_000_000, 0),
    (315_576_000_001, 0),
)  # fmt: skip
"""Seconds and nanos of a Duration."""
CHUNKS = (
    b"\x0b" * 300, b"\x0b\x0c", b"\x0c", b"\xff" * 12, b"\x80" * 11, b"\x0a\xff\xff\xff\xff\x07", b"\x00\x00", b"\x07",
    b"\x0a\x02\xff\xfe", b"\x12\x02\xed\xa0", b"\xfa\xff\xff\xff\x0f\x00", b"\x0a\x00" * 100,
    b"\x1a\x04\x0a\x02\x0a\x00", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
)  # fmt: skip
"""Bytes that parsers have trouble with: groups in groups, endless varints, lengths beyond the end, field number 0."""
TIMEOUTS = (*[None] * 24, 0.0005, 0.005, 0.05, 1e9, -1.0)
"""Seconds that a caller gives a call; None: as long as it takes."""
METADATA: tuple[tuple[str, str | bytes], ...] = (
    ("longshore-request-id", "a"), ("longshore-request-id", "b"), ("longshore-request-id", ""),
    ("longshore-request-id", "r" * 129), ("longshore-request-id-bin", b"\x00\xff"), ("longshore-wait", "1s"),
    ("longshore-wait", "500ms"), ("longshore-wait", "0s"), ("longshore-wait", "999999999.999999h"),
    ("longshore-wait", "-1s"), ("longshore-wait", "1"), ("longshore-wait", "1e9s"), ("longshore-wait", " 1s"),
    ("longshore-wait", "%00"), ("longshore-label-a", "a"), ("longshore-label-a", "v" * 4096), ("longshore-label-", "a"),
    ("longshore-label-a.b-c_d", "~ !\"#$%&'()*+,-./:;<=>?@[]^_`{|}"), ("longshore-label-9", ""),
    ("longshore-label-a-bin", b"a"), ("longshore-reqest-id", "a"), ("longshore-", "a"), ("authorization", ""),
    ("authorization", "Bearer "), ("authorization", "bearer x"), ("authorization", "Basic YTpi"),
    ("authorization", "Bearer a.b.c"), ("authorization", "Bearer %ff%fe"), ("authorization-bin", b"\xff\xfe"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("traceparent", "00-0-0-0"),
    ("traceparent-bin", b"\x00"), ("x-request-id", "a"), ("x" * 200, "v" * 2000), ("x-bin", b"\x80" * 100),
    ("grpc-accept-encoding", "no-such"), ("user-agent", "\x7e" * 500),
)  # fmt: skip


def spoilt(source: Source, data: bytes) -> bytes:
    """The same bytes, but for what goes wrong on the way."""
    how, at = source.number(100), source.number(2**16) % (len(data) + 1)
    if how < 40 and data:
        flipped = bytearray(data)
        for _ in range(1 + how % 3):
            flipped[at % len(data)] ^= 1 << (how % 8)
            at = source.number(2**16)
        return bytes(flipped)
    if how < 60:
        return data[:at]
    if how < 80:
        return data[:at] + source.pick(CHUNKS) + data[at:]
    if how < 88:
        return data + data[at:] + data
    return bytes(source.number(256) for _ in range(source.number(24)))
