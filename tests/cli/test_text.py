"""Texts of others on the terminal: what they hold moves no cursor and ends no line."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import click
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.channels_pb2 import DiagnosticOutput
from longshore_client.cli.table import Cell, print_rows
from longshore_client.cli.text import shown
from longshore_server import OperationError
from tests.cli.test_cli import Run, command
from tests.conftest import Lab

EVIL = "\x1b[2J\x9b31m\n✔ completed\r\t\x7f\u202eé"
SAFE = r"\u001b[2J\u009b31m\n✔ completed\r\t\u007f\u202eé"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture
async def run(lab: Lab) -> Run:
    """Run a command against a laboratory in which everything has been said in evil texts: b has failed, c is cancelled,
    d is going on, and a has completed."""

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.progress(PlayProgress(text=EVIL))
        await op.output(DiagnosticOutput(channel=DiagnosticOutput.CHANNEL_STDOUT, message=f"one\n\ttwo{EVIL[0]}"))
        if request.key == "b":
            raise OperationError("OUT_OF_STOCK", EVIL)
        if request.key in "cd":
            await op.cancelled.wait()
        return PlayResult(text=EVIL)

    for key in "abcd":
        packed = AnyMessage()
        packed.Pack(PlayRequest(key=key))
        request = pb.StartRequest(type="lab.v1.LabService/PlayNamed", input=packed)
        name = (await lab.operations.Start(request)).operation.name
        if key in "ab":
            await lab.end(name)
    await lab.operations.Cancel(pb.CancelRequest(name="operations/named-c", reason=EVIL))
    await lab.end("operations/named-c")
    return functools.partial(command, lab)


@pytest.mark.parametrize(
    "arguments",
    ["get named-a", "get named-b", "get named-c", "ls", "watch named-a", "watch named-b", "watch named-c",
     "wait named-a", "wait named-b", "wait named-c", "get named-a --json", "watch named-c --json", "ls --json"],
)  # fmt: skip
async def test_control_characters_are_written_out(arguments: str, run: Run) -> None:
    done = await run(*arguments.split())
    said = (done.out + done.err).replace("one\n\ttwo", "")
    assert not CONTROL.search(said)
    assert not [line for line in said.splitlines() if line.startswith("✔ completed\\")], "a line of its own"
    assert SAFE in said


@pytest.mark.parametrize("arguments", [("get",), ("delete",), ("call",), ("ls", "--filter"), ("signal", "named-d")])
async def test_neither_do_refusals_hold_any(arguments: tuple[str, ...], run: Run) -> None:
    done = await run(*arguments, EVIL)
    assert done.code
    assert not CONTROL.search(done.err)
    assert len(done.err.splitlines()) == 1


async def test_json_stays_exact(run: Run) -> None:
    (done,) = (await run("get", "named-a", "--json")).json
    assert done["result"]["text"] == EVIL
    assert (await run("wait", "named-a")).json[0]["text"] == EVIL


async def test_output_keeps_its_lines(run: Run) -> None:
    assert (await run("watch", "named-a")).out.startswith("one\n\ttwo\\u001b\n")


def test_what_is_shown_of_json_is_the_same_json() -> None:
    text = "".join(map(chr, [*range(0x300), *range(0x2000, 0x2100), 0xDFFF, 0xD800, 0x1F600]))
    assert json.loads(shown(json.dumps(text, ensure_ascii=False))) == text
    assert shown("ünïcode 漢字\u3000👩\u200d💻 \\n") == "ünïcode 漢字\u3000👩\u200d💻 \\n"


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (60, ["NAME    QUEUE              TRY  WHAT", "jobs/a  reserve-inventory  100  the shop is closed today"]),
        (40, ["NAME  QUEUE              TRY  WHAT", "a     reserve-inventory  100  the shop …"]),
        (26, ["NAME  QUEUE            TRY", "a     reserve-invent…  100"]),
        (18, ["NAME  QUEUE    TRY", "a     reserv…  100"]),
        (14, ["NAME  QUEUE  …", "a     rese…  …"]),
        (2, ["NAME", "a"]),
    ],
)
def test_a_row_has_one_line_and_its_name_is_whole(
    columns: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    rest = (Cell("reserve-inventory"), Cell("100"), Cell("the shop is closed today"))
    print_rows(("NAME", "QUEUE", ">TRY", "WHAT"), [(Cell("jobs/a"), *rest)], narrow=[(Cell("a"), *rest)])
    assert click.unstyle(capsys.readouterr().out).splitlines() == lines


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (39, ["QUEUE    READY  SLOTS  WHEN", "reserve     12   0/64  at night  paused", "x            0    1/1"]),
        (38, ["reserve", "  ready 12, slots 0/64, when at night,", "  paused", "x", "  ready 0, slots 1/1"]),
        (20, ["reserve", "  ready 12,", "  slots 0/64,", "  when at night,", "  paused", "x", "  ready 0, slots 1/1"]),
    ],
)
def test_of_a_row_all_of_whose_cells_count_none_is_cut(
    columns: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    cells = [("reserve", "12", "0/64", "at night", "paused"), ("x", "0", "1/1", "", "")]
    rows = [[Cell(text) for text in row] for row in cells]
    print_rows(("QUEUE", ">READY", ">SLOTS", "WHEN", ""), rows, whole=True)
    assert click.unstyle(capsys.readouterr().out).splitlines() == lines
