"""How single messages, spans and bars look."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from acme.orders.v1.orders_pb2 import OrderItem, ProcessOrderProgress, ProcessOrderRequest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from rich.console import Console
from rich.file_proxy import FileProxy

import longshore_client as lc
from longshore.v1.channels_pb2 import CounterProgress, MilestoneProgress
from longshore_client.channel import connect
from longshore_client.cli.as_json import event_dict
from longshore_client.cli.bars import Bars
from longshore_client.cli.reflection import Types
from longshore_client.cli.render import PlainRenderer, describe
from longshore_client.cli.text import elapsed


@pytest.fixture
def types() -> Types:
    return Types(connect("localhost:1"))


@pytest.mark.parametrize(
    ("message", "head", "text"),
    [
        (ProcessOrderProgress(step="reserve", message="Reserving ord_123"), "reserve", "Reserving ord_123"),
        (ProcessOrderProgress(message="only this"), "", "only this"),
        (ProcessOrderProgress(), "", ""),
        (ProcessOrderRequest(order_id="o", amount=5), "", "o  amount=5"),
        (MilestoneProgress(step=1, total_steps=3, label="Pack"), "", "Pack  1/3"),
        (CounterProgress(current=4, total=9, message="rows"), "", "rows  4/9"),
        (CounterProgress(current=4), "", "4"),
    ],
)
def test_any_message_becomes_a_readable_line(types: Types, message: Any, head: str, text: str) -> None:
    assert describe(message, types) == (head, text)


def test_messages_of_protobuf_itself_are_read_in_forms_of_their_own(types: Types) -> None:
    assert types.parse("5s", Duration) == Duration(seconds=5)
    assert types.parse("tea", StringValue) == StringValue(value="tea")
    others: list[Any] = [{}, [1]]
    for data in others:
        with pytest.raises(ValueError, match="expected string"):  # of protobuf a TypeError
            types.parse(data, StringValue)


def test_long_values_are_cut(types: Types) -> None:
    message = ProcessOrderRequest(items=[OrderItem(sku="A" * 50)])
    _, text = describe(message, types)
    assert text.endswith("…")
    assert len(text) < 60


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (65, "1 min 5 s"),
        (3600, "1 h 0 min"),
        (359_940, "99 h 59 min"),
        (360_000, "4 d 4 h"),
    ],
)
def test_spans_are_short(seconds: float, text: str) -> None:
    assert elapsed(seconds) == text


def common(sequence: int, state: lc.State = lc.State.RUNNING) -> dict[str, Any]:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=sequence)
    return {"sequence": sequence, "revision": sequence, "attempt": 1, "time": at, "state": state}


def test_every_event_has_a_json_form_and_a_line(types: Types, capsys: pytest.CaptureFixture[str]) -> None:
    failed = lc.OperationFailed("no A1", operation="operations/x", reason="OUT_OF_STOCK", code=lc.Code.ABORTED)
    cancelled = lc.OperationCancelled("by ada", operation="operations/x", reason="CANCELLED", code=lc.Code.CANCELLED)
    interrupted = lc.OperationFailed(
        "It crashed.", operation="operations/x", reason="INTERRUPTED", code=lc.Code.ABORTED, domain="longshore"
    )
    snapshot: lc.Snapshot[Any, Any] = lc.Snapshot(
        name="operations/x", uid="u", type="T", state=lc.State.RUNNING, revision=9, sequence=9, attempt=1,
        progress=ProcessOrderProgress(step="c", message="d"), create_time=common(1)["time"],
        update_time=common(9)["time"],
    )  # fmt: skip
    events: list[lc.Event[Any, Any, Any]] = [
        lc.Accepted("operations/x", "u", "T", **common(1)),
        lc.Started(**common(2)),
        lc.Progress(ProcessOrderProgress(step="a", message="b"), **common(3)),
        lc.Output(ProcessOrderProgress(message="out"), **common(4)),
        lc.AttemptFailed(failed, timedelta(seconds=2), **common(5)),
        lc.Cancelling("why", **common(6, lc.State.CANCELLING)),
        lc.Completed(ProcessOrderProgress(message="r"), **common(7, lc.State.COMPLETED)),
        lc.Failed(failed, **common(7, lc.State.FAILED)),
        lc.Cancelled(cancelled, **common(7, lc.State.CANCELLED)),
        lc.AttemptFailed(interrupted, timedelta(0), **common(8)),
        lc.Reset(snapshot, **common(9)),
    ]
    dicts = [event_dict(event, types) for event in events]
    assert [item["type"] for item in dicts] == [
        "accepted", "started", "progress", "output", "attempt_failed", "cancelling", "completed", "failed", "cancelled",
        "attempt_failed", "reset",
    ]  # fmt: skip
    assert dicts[2]["value"] == {"step": "a", "message": "b"}
    assert dicts[2]["time"] == "2026-01-01T00:00:03Z"
    assert dicts[4]["retry_delay"] == 2.0
    assert dicts[7]["error"]["reason"] == "OUT_OF_STOCK"
    assert dicts[10]["snapshot"]["progress"] == {"step": "c", "message": "d"}
    plain = PlainRenderer(types)
    for event in events:
        plain.event(event)
    shown = capsys.readouterr()
    assert shown.out == "out\n"
    lines = shown.err.splitlines()
    assert lines[0].split() == ["a", "b", "2.0", "s"]
    assert lines[-1].split() == ["c", "d", "8.0", "s"]
    assert lines[1:-1] == [
        "  attempt 1 ended: no A1 (OUT_OF_STOCK); running again in 2.0 s",
        "  cancelling: why",
        "✔ completed in 6.0 s",
        "✘ failed after 6.0 s: no A1 (OUT_OF_STOCK)",
        "■ cancelled after 6.0 s: by ada",
        "  attempt 1 ended: It crashed (INTERRUPTED); running again",
        "  the log no longer reaches back: events up to 9 are left out",
    ]


def test_a_payload_that_nobody_describes_stays_packed(types: Types) -> None:
    unknown = AnyMessage(type_url="type.googleapis.com/no.Such", value=b"\x01")
    assert types.to_dict(unknown) == {"@type": "type.googleapis.com/no.Such", "value": "AQ=="}
    assert describe(unknown, types)[1]


def packed(message: Message) -> AnyMessage:
    found = AnyMessage()
    found.Pack(message)
    return found


def test_what_is_no_object_in_json_is_shown_as_what_it_is(types: Types) -> None:
    types._add_local(StringValue.DESCRIPTOR.file)
    assert types.to_dict(packed(StringValue(value="x"))) == {
        "@type": "type.googleapis.com/google.protobuf.StringValue",
        "value": "x",
    }
    assert types.to_dict(StringValue(value="x")) == "x"
    assert describe(Int32Value(value=3), types) == ("", "3")
    assert describe(Timestamp(seconds=5), types) == ("", "1970-01-01T00:00:05Z")


def nested(times: int) -> AnyMessage:
    value = AnyMessage()
    for _ in range(times):
        value = packed(value)
    return value


NO_JSON: dict[str, tuple[Message, str]] = {
    "a time in a far year": (Timestamp(seconds=2**60), "seconds: 1152921504606846976\n"),
    "a span of two signs": (Duration(seconds=1, nanos=-1), "seconds: 1\nnanos: -1\n"),
    "a number that is none": (Value(number_value=float("nan")), "number_value: nan\n"),
    "a path in upper case": (FieldMask(paths=["aB"]), 'paths: "aB"\n'),
    "packed bytes that are no message": (
        packed(AnyMessage(type_url="type.googleapis.com/google.protobuf.Timestamp", value=b"\xff")),
        'type_url: "type.googleapis.com/google.protobuf.Timestamp"',
    ),
    "a thousand packed in each other": (nested(1000), 'type_url: "type.googleapis.com/google.protobuf.Any"'),
}


@pytest.mark.parametrize("case", NO_JSON)
def test_what_json_has_no_form_for_is_shown_as_text(types: Types, case: str) -> None:
    message, text = NO_JSON[case]
    for kind in (Timestamp, Duration, Value, FieldMask, AnyMessage):
        types._add_local(kind.DESCRIPTOR.file)
    shown = types.to_dict(message if isinstance(message, AnyMessage) else packed(message))
    assert shown["text"].startswith(text)
    json.dumps(shown)
    assert describe(message, types)[1]


def test_a_terminal_gets_a_bar() -> None:
    """In a process of its own with a pseudo-terminal, since rich looks at the real one."""
    code = """
from datetime import UTC, datetime
import longshore_client as lc
from longshore.v1.channels_pb2 import MilestoneProgress
from longshore_client.channel import connect
from longshore_client.cli.reflection import Types
from longshore_client.cli.render import LiveRenderer, renderer
show = renderer(Types(connect('localhost:1')), as_json=False, name='operations/x')
assert isinstance(show, LiveRenderer)
for step in (1, 2, 3):
    show.event(lc.Progress(MilestoneProgress(step=step, total_steps=3, label=f'stage {step}'), sequence=step,
        revision=step, attempt=1, time=datetime.now(UTC), state=lc.State.RUNNING))
show.event(lc.Completed(None, sequence=9, revision=9, attempt=1, time=datetime.now(UTC), state=lc.State.COMPLETED))
"""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the other end has closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    assert "━" in text
    assert "stage 3" in text
    assert "3/3" in text
    assert "completed in" in text


def test_a_bar_of_bytes_says_how_fast_it_goes_and_how_long_it_will_take() -> None:
    bars, shown, now = Bars(), io.StringIO(), 100.0
    bars._console = Console(file=shown, force_terminal=True, width=80)
    rich = bars._open()
    assert rich is not None
    rich.get_time = lambda: now
    for sent in (0, 10, 20):
        now += 1.0
        bars.bytes("sending report.pdf", sent * 1_000_000, 100_000_000)
    rich.refresh()
    assert " 20.0 MB of 100.0 MB  10.0 MB/s  8 s left " in shown.getvalue()
    # What the operation tells of is behind what was sent.
    bars.bytes("sending report.pdf", 16_000_000, 100_000_000)
    for spent, said in ((2.0, "5.0 MB/s  16 s left "), (6.0, "2.0 MB/s  40 s left "), (20.0, "0 B/s  ")):
        now += spent
        rich.refresh()
        assert f" 20.0 MB of 100.0 MB  {said}" in shown.getvalue(), "it hangs, and that is seen"
    now += 1.0
    bars.bytes("sending report.pdf", 31_000_000, 100_000_000)
    rich.refresh()
    assert " 31.0 MB of 100.0 MB  1.1 MB/s  63 s left " in shown.getvalue(), "it has gone on"
    bars.bytes_done()
    assert rich.tasks == []
    bars.close()


@pytest.mark.parametrize(
    ("columns", "name", "facts"),
    [
        (80, "sending    ", "246.8 MB of 123.4 GB  123.4 MB/s  17 min left"),
        (60, "sending ", "246.8 MB of 123.4 GB  17 min left"),
        (40, "sending ", "246.8 MB of 123.4 GB"),
        (30, "se…", "246.8 MB of 123.4 GB"),
    ],
)
def test_figures_are_left_out_before_they_are_cut(columns: int, name: str, facts: str) -> None:
    bars, shown, now = Bars(), io.StringIO(), 100.0
    bars._console = Console(file=shown, force_terminal=True, width=columns)
    rich = bars._open()
    assert rich is not None
    rich.get_time = lambda: now
    for done in (0, 123_400_000, 246_800_000):
        now += 1.0
        bars.bytes("sending", done, 123_400_000_000)
    rich.refresh()
    line = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.getvalue()).splitlines()[-1].split("\r")[-1]
    bars.close()
    assert re.fullmatch(f"  {name} [━╸╺]* {facts} *", line), line
    assert len(line) <= columns - 3


def test_the_clock_of_a_bar_goes_on_until_the_end() -> None:
    begin = now = datetime(2026, 1, 1, tzinfo=UTC)
    shown = io.StringIO()
    bars = Bars(lambda: now)
    bars._console = Console(file=shown, force_terminal=True, width=80)

    def clock() -> str:
        rich = bars._open()
        assert rich is not None
        shown.truncate(shown.seek(0))
        rich.refresh()
        (found,) = re.findall(r" 1/3 +(\d.*?) *(?:\x1b|\n|$)", shown.getvalue())
        return str(found)

    # Of two clocks, ours may be behind.
    bars.count("Reserving", 1, 3, begin, timedelta(seconds=2))
    assert clock() == "2.0 s"
    now += timedelta(seconds=75)
    assert clock() == "1 min 15 s"
    bars.stop_clock(timedelta(seconds=60))
    assert clock() == "1 min 0 s"
    bars.close()


def test_what_comes_after_the_end_is_not_shown() -> None:
    bars, shown = Bars(), io.StringIO()
    bars._console = Console(file=shown, force_terminal=True, width=80)
    bars.bytes("sending", 1, 2)
    bars.close()
    last = shown.getvalue()
    # A thread of the sending, which nobody has stopped yet.
    bars.bytes("sending", 2, 2)
    bars.count("Reserving", 1, 3, datetime.now(UTC), timedelta(0))
    assert shown.getvalue() == last
    assert not isinstance(sys.stderr, FileProxy)
