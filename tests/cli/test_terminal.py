"""The command line in a terminal: what a person sees, with bars, in several widths, with and without colours."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pyte
import pytest
from lab.v1.lab_pb2 import PlayProgress, PlayResult

from longshore.v1.channels_pb2 import CounterProgress, DiagnosticOutput, MilestoneProgress
from longshore_client.cli.text import cells
from longshore_server import OperationError
from tests.conftest import Lab, State

# A session's leader does not have its terminal by that alone; without, Ctrl-C would be a letter.
LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
BAR = re.compile(r"[━╸╺]+")


class Terminal:
    """One that a command runs in, and what stands on its screen."""

    def __init__(self, address: str, columns: int) -> None:
        self._address = address
        self._screen = pyte.Screen(columns, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._master, self._slave = pty.openpty()
        self._changed = asyncio.Condition()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._process: asyncio.subprocess.Process | None = None
        self.bytes = b""
        """All that was written to it."""
        self.looks: list[list[str]] = []
        """The screen after each write."""
        self.resize(columns)

    def resize(self, columns: int) -> None:
        """As the window of a person who drags it, when all is drawn that was meant for the old width."""
        while not self._end.done() and select.select([self._master], [], [], 0)[0]:
            self._read()
        self._screen.resize(24, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    async def run(self, *arguments: str, stdout: int | None = None, **environment: Any) -> None:
        """Start a command; `stdout`: where its results go instead."""
        base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LAUNCH, sys.executable, "-m", "longshore_client.cli", *arguments,
            stdin=self._slave, stdout=self._slave if stdout is None else stdout, stderr=self._slave,
            start_new_session=True,
            env={**base, "TERM": "xterm-256color", "LONGSHORE_SERVER": self._address, **environment},
        )  # fmt: skip
        os.close(self._slave)
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # nobody is left at the other end
            data = b""
        if data:
            self.bytes += data
            self._stream.feed(data)
            self.looks.append(self.lines)
        else:
            asyncio.get_running_loop().remove_reader(self._master)
            self._end.set_result(None)
        self._waking = asyncio.ensure_future(self._wake())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        """What stands there now, without what is empty at the end."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip("\n").split("\n")

    @property
    def column(self) -> int:
        """Where the cursor is; 0: at the beginning of a line."""
        return self._screen.cursor.x

    @property
    def bars(self) -> list[str]:
        return [line for line in self.lines if BAR.search(line)]

    async def shows(self, text: str, *, above: bool = False) -> None:
        """Return once it stands on the screen; `above`: with a bar below it, as one write may come in pieces."""

        def shown() -> bool:
            return text in "\n".join(self.lines) and (not above or self.lines[-1] in self.bars)

        async with self._changed:
            await self._changed.wait_for(lambda: shown() or self._end.done())
        assert shown(), self.lines

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def ended(self) -> int:
        """The exit code, once all is on the screen."""
        assert self._process is not None
        code = await self._process.wait()
        await self._end
        return code

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self.ended()
        os.close(self._master)


Open = Callable[[int], Terminal]


@pytest.fixture
async def terminal(lab: Lab) -> AsyncIterator[Open]:
    """Opens terminals of so many columns. The server's clock is at our own time, which bars compare with it."""
    opened: list[Terminal] = []
    lab.clock.advance_to(time.time_ns() // 1000)

    def open(columns: int) -> Terminal:
        opened.append(Terminal(lab.harness.address, columns))
        return opened[-1]

    yield open
    for one in opened:
        await one.close()


class Play:
    """A handler that goes on when the test has seen enough."""

    def __init__(self, *messages: Any) -> None:
        self._messages = messages
        self._go = asyncio.Semaphore(0)

    def go(self) -> None:
        self._go.release()

    async def __call__(self, request: Any, op: Any) -> PlayResult:
        for message in self._messages:
            await (op.output if isinstance(message, DiagnosticOutput) else op.progress)(message)
            await self._go.acquire()
        return PlayResult(text="made")


def bar_in(line: str) -> tuple[int, int] | None:
    """The columns where its bar begins and ends."""
    found = BAR.search(line)
    return found and (cells(line[: found.start()]), cells(line[: found.end()]))


def whole(line: str) -> bool:
    """Whether a line with a bar has come to its end: what is written at once may be read in pieces."""
    return line.endswith(" s")


def milestone(step: int, label: str) -> MilestoneProgress:
    return MilestoneProgress(step=step, total_steps=3, label=label)


@pytest.mark.parametrize("columns", [80, 200])
async def test_a_call_from_its_start_to_its_result(lab: Lab, terminal: Open, columns: int) -> None:
    play = lab.plays(Play(milestone(1, "Reserving"), milestone(3, "Shipping")))
    shown = terminal(columns)
    await shown.run("call", "Climb", "--watch")
    await shown.shows("Reserving")
    play.go()
    await shown.shows("Shipping")
    play.go()
    assert await shown.ended() == 0
    name, bar, end, result = shown.lines
    assert name.startswith("operations/")
    assert re.fullmatch(r"  Shipping {15}━{35} 3/3        0\.0 s", bar), bar
    assert (end, result) == ("✔ completed in 0.0 s", '{"text": "made"}')


async def test_bars_do_not_jump(lab: Lab, terminal: Open) -> None:
    labels = ["rows", "rows of a table whose name is longer than any line", "中文" * 20, ""]
    counts = [1, 9, 10, 999, 1000]
    messages = [
        CounterProgress(current=count, total=1000, message=label) for count in counts for label in labels
    ]  # fmt: skip
    play = lab.plays(Play(*messages))
    shown = terminal(80)
    await shown.run("call", "Count", "--watch")
    for message in messages:
        await shown.shows(f"{message.current:>4}/1000")
        play.go()
    assert await shown.ended() == 0
    seen = {place for look in shown.looks for line in look if whole(line) and (place := bar_in(line))}
    assert seen == {(25, 25 + 29)}


async def test_what_is_printed_meanwhile_stands_above_the_bar(lab: Lab, terminal: Open) -> None:
    said = "one line of output that is too long for a terminal of eighty columns, so that it has two rows"
    play = lab.plays(
        Play(
            milestone(1, "Reserving"),
            DiagnosticOutput(channel=DiagnosticOutput.CHANNEL_STDOUT, message=said),
            DiagnosticOutput(channel=DiagnosticOutput.CHANNEL_WARN, message="careful"),
            milestone(2, "Charging"),
        )
    )
    shown = terminal(80)
    await shown.run("call", "Climb", "--watch")
    for text in ("Reserving", "two rows", "careful", "Charging"):
        await shown.shows(text, above=True)
        assert len(shown.bars) == 1
        play.go()
    assert await shown.ended() == 0
    _, first, second, warning, bar, *_ = shown.lines
    assert f"{first} {second}" == said
    assert warning == "careful"
    assert "2/3" in bar


async def test_the_clock_of_a_bar_goes_on_while_nothing_comes(lab: Lab, terminal: Open) -> None:
    play = lab.plays(Play(milestone(1, "Reserving")))
    shown = terminal(80)
    await shown.run("call", "Climb", "--watch")
    await shown.shows("1/3")

    def seconds() -> float:
        found = re.search(r" 1/3 +([\d.]+) s", "\n".join(shown.lines))
        return float(found[1]) if found else 0.0

    first = seconds()
    async with shown._changed:
        await shown._changed.wait_for(lambda: seconds() >= first + 0.2)
    # As long as it took by the server's clock, which has stood still.
    play.go()
    assert await shown.ended() == 0
    assert seconds() == 0.0
    assert shown.lines[2] == "✔ completed in 0.0 s"


async def test_an_outage_is_told_above_the_bar(lab: Lab, terminal: Open) -> None:
    play = lab.plays(Play(milestone(1, "Reserving"), milestone(2, "Charging")))
    shown = terminal(80)
    await shown.run("call", "Climb", "--watch")
    await shown.shows("Reserving")
    await lab.restart()
    await shown.shows("back after")
    play.go()
    play.go()
    play.go()
    assert await shown.ended() == 0
    assert shown.lines[1].endswith("does not answer; trying again")
    assert re.fullmatch(r"back after \d+\.\d s", shown.lines[2])
    assert len(shown.bars) == 1


async def test_a_terminal_that_is_resized_keeps_one_bar(lab: Lab, terminal: Open) -> None:
    widths = [200, 100, 80, 60, 140]
    play = lab.plays(Play(*(CounterProgress(current=n, total=9, message="rows") for n in range(len(widths)))))
    shown = terminal(widths[0])
    await shown.run("call", "Count", "--watch")
    for number, width in enumerate(widths):
        shown.resize(width)
        await shown.shows(f" {number}/9 ")
        # The next look is at what the new width has made of it.
        looks = len(shown.looks)

        def redrawn(looks: int = looks) -> bool:
            return len(shown.looks) > looks and list(map(whole, shown.bars)) == [True]

        async with shown._changed:
            await shown._changed.wait_for(redrawn)
        assert len(shown.bars[0]) == min(width - 3, 77)
        play.go()
    assert await shown.ended() == 0


@pytest.mark.parametrize("columns", [80, 200])
async def test_lines_of_progress_have_one_row_each(lab: Lab, terminal: Open, columns: int) -> None:
    texts = ["short", "so long that it does not fit beside its time in a terminal of eighty " + "columns " * 5, "中文"]
    play = lab.plays(Play(*(PlayProgress(number=n, text=text) for n, text in enumerate(texts, 1))))
    shown = terminal(columns)
    await shown.run("call", "Play", "--watch")
    for number, text in enumerate(texts, 1):
        await shown.shows(f"number={number}  {text[:20].strip()}")
        play.go()
    assert await shown.ended() == 0
    _, *rows, _, _ = shown.lines
    assert len(rows) == len(texts)
    assert all(row.endswith("  0.0 s") for row in rows)
    assert ("…" in rows[1]) is (columns == 80)
    assert rows[0].index("0.0 s") == 72


async def test_ctrl_c_leaves_it_running_and_says_how_to_come_back(lab: Lab, terminal: Open) -> None:
    play = lab.plays(Play(milestone(1, "Reserving"), milestone(2, "Charging")))
    name = (await lab.begin("Climb")).operation.name
    shown = terminal(80)
    await shown.run("watch", name)
    await shown.shows("1/3")
    shown.type(b"\x03")
    assert await shown.ended() == 130
    assert len(shown.bars) == 1
    said = "".join(shown.lines[shown.lines.index(shown.bars[0]) + 1 :])
    assert said == f"{name} goes on. Come back with: longshore watch {name} --after 3"
    assert (await lab.get(name)).state == State.STATE_RUNNING
    again = terminal(80)
    await again.run(*said.partition("longshore ")[2].split())
    play.go()
    await again.shows("2/3")
    play.go()
    assert await again.ended() == 0
    assert "Reserving" not in "".join(line for look in again.looks for line in look)


@pytest.mark.parametrize(
    ("environment", "bars"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)], ids=["NO_COLOR", "TERM=dumb"]
)
async def test_no_colours_where_none_are_wanted(
    lab: Lab, terminal: Open, environment: dict[str, Any], bars: bool
) -> None:
    async def failing(request: Any, op: Any) -> PlayResult:
        await op.progress(milestone(1, "Reserving"))
        raise OperationError("OUT_OF_STOCK", "no A1 left")

    lab.plays(failing)
    for arguments in (("call", "Climb", "--watch"), ("ls",), ("get", "nobody"), ("sl",)):
        shown = terminal(80)
        await shown.run(*arguments, **environment)
        await shown.ended()
        assert shown.lines != [""]
        assert re.findall(rb"\x1b\[[\d;]+m", shown.bytes) == [], "no colour, and nothing bold"
        if arguments[0] == "call":
            assert bool(shown.bars) is bars
        if not bars:
            assert b"\x1b" not in shown.bytes
            assert b"\r\r" not in shown.bytes


async def test_colours_where_there_is_a_terminal(lab: Lab, terminal: Open) -> None:
    shown = terminal(80)
    await shown.run("call", "Play", "--watch")
    await shown.ended()
    assert "\x1b[32m✔".encode() in shown.bytes


async def test_what_is_piped_is_the_result_alone(lab: Lab, terminal: Open) -> None:
    play = lab.plays(
        Play(
            milestone(1, "Reserving"),
            DiagnosticOutput(channel=DiagnosticOutput.CHANNEL_STDOUT, message="a line"),
        )
    )
    reading, writing = os.pipe()
    shown = terminal(80)
    await shown.run("call", "Climb", "--watch", stdout=writing)
    os.close(writing)
    await shown.shows("1/3")
    play.go()
    play.go()
    assert await shown.ended() == 0
    with open(reading, "rb") as piped:  # noqa: ASYNC230, PTH123 - its other end is closed
        assert piped.read() == b'a line\n{"text": "made"}\n'
    assert len(shown.bars) == 1
    assert shown.lines[-1] == "✔ completed in 0.0 s"


async def test_json_is_json_in_a_terminal_too(lab: Lab, terminal: Open) -> None:
    play = lab.plays(Play(CounterProgress(current=1, message="rows")))
    play.go()
    reading, writing = os.pipe()
    shown = terminal(80)
    await shown.run("call", "Count", "--watch", "--json", stdout=writing)
    os.close(writing)
    assert await shown.ended() == 0
    assert shown.bytes == b""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    with open(reading, "rb") as piped:  # noqa: ASYNC230, PTH123
        events = [json.loads(line, parse_constant=refuse) for line in piped]
    assert [event["type"] for event in events] == ["accepted", "started", "progress", "completed"]


@pytest.mark.parametrize("columns", [44, 80, 200])
async def test_a_list_has_one_row_for_each(lab: Lab, terminal: Open, columns: int) -> None:
    async def failing(request: Any, op: Any) -> PlayResult:
        raise OperationError("OUT_OF_STOCK", "no A1 left in any of the houses that we have asked, which are many")

    lab.plays(failing)
    names = [(await lab.begin("Count")).operation.name for _ in range(3)]
    for name in names:
        await lab.end(name)
    shown = terminal(columns)
    await shown.run("ls")
    assert await shown.ended() == 0
    head, *rows = shown.lines
    assert len(rows) == 3
    for name, row in zip(reversed(names), rows, strict=True):
        if columns == 44:
            assert row.split()[0] == name.removeprefix("operations/"), "the name is whole"
            continue
        found, type, state, *_ = row.split()
        assert row.index(state) == head.index("STATE")
        if columns == 200:
            assert (found, type) == (name, "LabService/Count")
            assert row.endswith("which are many (OUT_OF_STOCK)")
        else:
            assert (found, type) == (name.removeprefix("operations/"), "Count")
            assert row.endswith("…")
    got = terminal(columns)
    await got.run("get", rows[0].split()[0])
    assert await got.ended() == 0, "a name as it stands there is a name"
