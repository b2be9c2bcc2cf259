"""`longshore dev`: a server that follows its files, and what it says when they are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Never

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore_client import Channel, OperationMethod, StillRunning, connect

COMMAND = (sys.executable, "-m", "longshore_client.cli", "dev")
CONTRACT = """
syntax = "proto3";
package dev.v1;
import "google/longrunning/operations.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/wrappers.proto";
import "longshore/v1/annotations.proto";
service DevService {
  rpc Run(google.protobuf.StringValue) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {
      response_type: "google.protobuf.StringValue" metadata_type: "google.protobuf.Empty"
    };
    option (longshore.v1.operation) = {};
  }
}
"""
SERVICE = """
import asyncio
import sys
from dev.v1 import dev_longshore
from google.protobuf.wrappers_pb2 import StringValue
from longshore_server import Server

class Dev(dev_longshore.DevService):
    async def run(self, request, op, /):
        await asyncio.Event().wait()

server = Server(Dev())
"""
HANGING = """
print("hangs", file=sys.stderr, flush=True)
import threading
threading.Event().wait()
"""
LIFELESS = SERVICE.replace(
    "server = Server(Dev())",
    """
from contextlib import asynccontextmanager
@asynccontextmanager
async def life(server):
    raise RuntimeError("no warehouse")
    yield
server = Server(Dev(), lifespan=life)
""",
)
DONE = SERVICE.replace("await asyncio.Event().wait()", 'return StringValue(value=f"{request.value}, done")')


class Development:
    """`longshore dev` in a folder, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contract = folder / "protos" / "dev" / "v1" / "dev.proto"
        self.service = folder / "service.py"
        self.address = f"unix:{folder}/s"
        self.said: list[str] = []
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def server(self) -> int:
        """The process that serves, where there is no other."""
        pid = self.process.pid
        (found,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(found)

    async def start(self, *options: str, target: str = "service.py:server") -> None:
        self._process = await asyncio.create_subprocess_exec(
            *COMMAND, target, "--listen", self.address, "--metrics", "off", *options, cwd=self.folder,
            stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    async def says(self, text: str) -> None:
        """Return once a line holds a text."""
        assert self.process.stderr is not None
        while True:
            line = (await self.process.stderr.readline()).decode()
            assert line, "".join(self.said)
            self.said.append(line)
            if text in line:
                return

    async def heard(self) -> None:
        """Return once it has been told that its server serves: the server writes so before that, and answers after."""
        async with connect(self.address) as channel:
            async for _ in method(channel).list():
                break

    def replace(self, path: Path, text: str) -> None:
        """Change a file in one step: one that is emptied, and then written, may be seen in between."""
        aside = self.folder.with_suffix(".aside")
        aside.write_text(text)
        aside.replace(path)

    async def stop(self) -> None:
        """Ask it to; it must end well, and its server with it."""
        self.process.send_signal(signal.SIGTERM)
        _, err = await self.process.communicate()
        assert self.process.returncode == 0, "".join(self.said) + err.decode()


@pytest.fixture
async def development(tmp_path: Path) -> AsyncIterator[Development]:
    found = Development(tmp_path)
    found.contract.parent.mkdir(parents=True)
    found.contract.write_text(CONTRACT)
    found.service.write_text(SERVICE)
    yield found
    with contextlib.suppress(ProcessLookupError):
        await found.stop()


def method(channel: Channel) -> OperationMethod[StringValue, Never, Never, StringValue]:
    return OperationMethod(
        channel, "dev.v1.DevService/Run", input_type=StringValue, progress_type=None, output_type=None,
        result_type=StringValue,
    )  # fmt: skip


async def test_a_changed_handler_goes_on_with_what_the_old_one_had_begun(development: Development) -> None:
    await development.start()
    await development.says("serving dev.v1.DevService (1 operation)")
    async with connect(development.address) as channel:
        operation = await method(channel)(StringValue(value="begun"))
        development.service.write_text(DONE)
        assert await operation.wait() == StringValue(value="begun, done")
    await development.says("recovered 1 operation")
    assert any("service.py changed" in line for line in development.said)


@pytest.mark.parametrize("mistake", ["this is no Python", "server = None", "raise RuntimeError('none')", "sys.exit(3)"])
async def test_of_broken_code_the_server_knows_nothing(development: Development, mistake: str) -> None:
    await development.start()
    await development.says("serving")
    async with connect(development.address) as channel:
        before = await method(channel)(StringValue(value="before"))
        development.service.write_text(f"{SERVICE}\n{mistake}\n")
        await development.says("the server goes on as it was; waiting for the next change")
        with pytest.raises(StillRunning):
            await before.wait(0)
        assert not any("stopping" in line for line in development.said)
        development.service.write_text(DONE)
        assert await before.wait() == StringValue(value="before, done")


async def test_code_that_cannot_be_started_gives_the_place_back(development: Development) -> None:
    development.service.write_text(LIFELESS)
    await development.start()
    await development.says("no server runs; waiting for the next change")
    development.service.write_text(SERVICE)
    await development.says("serving")
    async with connect(development.address) as channel:
        before = await method(channel)(StringValue(value="before"))
        development.service.write_text(LIFELESS)
        await development.says("RuntimeError: no warehouse")
        await development.says("recovered 1 operation")
        await development.says("the server goes on as it was; waiting for the next change")
        with pytest.raises(StillRunning):
            await before.wait(0)
        development.service.write_text(DONE)
        assert await before.wait() == StringValue(value="before, done")


@pytest.mark.parametrize(
    ("target", "option", "sentence"),
    [
        ("service.py:server", "--nonsense", "--nonsense"),
        # How click quotes what it means is up to its version.
        ("service.py:server", "--proto=protos", "?; `longshore dev --help` shows how"),
        ("service.py:server", "--drain=-1", "--drain: -1.0 is not between 0 and "),
        ("service.py:server", "--tokens=nothing", "--tokens: nothing: No such file or directory"),
        ("service.py:server", "--listen=unix:missing/s", "cannot listen on unix:missing/s"),
        ("service", "--drain=0", "'service' is neither MODULE:NAME nor FILE.py:NAME"),
        ("servce:server", "--drain=0", "there is no module servce in "),
        (
            "service:servr",
            "--drain=0",
            "service: it has no servr, and a longshore_server.Server is needed; it has server",
        ),
    ],
)
async def test_it_does_not_wait_where_no_change_of_files_can_help(
    development: Development, target: str, option: str, sentence: str
) -> None:
    await development.start(option, target=target)
    await development.says(sentence)
    assert development.process.stderr is not None
    async for line in development.process.stderr:
        assert b"waiting for the next change" not in line
    assert await development.process.wait() == 2


async def test_a_server_that_is_still_to_be_written_is_waited_for(development: Development) -> None:
    development.service.write_text("")
    await development.start()
    await development.says(
        "it has no server, and a longshore_server.Server is needed; write `server = Server(...)` there"
    )
    await development.says("no server runs; waiting for the next change")
    development.service.write_text(SERVICE)
    await development.says("serving")


async def test_a_folder_that_cannot_be_written_to_is_one_sentence(development: Development) -> None:
    await development.start("--out", "service.py/generated")
    await development.says("error: service.py/generated cannot be used: Not a directory; name another, or mend that")
    await development.says("no server runs; waiting for the next change")
    assert not any("Traceback" in line for line in development.said)


async def test_of_a_server_that_another_has_replaced_nothing_is_left(development: Development) -> None:
    await development.start("--drain", "1000")  # nor is it late
    await development.says("serving")
    await development.heard()
    end, over, loop = os.pidfd_open(development.server), asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(end, over.set)
    try:
        development.replace(development.service, DONE)
        await asyncio.wait_for(over.wait(), 60)
    finally:
        loop.remove_reader(end)
        os.close(end)


async def test_its_end_cuts_no_stop_short(development: Development) -> None:
    """Whose server has been told to stop, and was then killed, gives its attempts their time all the same."""
    fifo = development.folder / "fifo"
    os.mkfifo(fifo)
    reads = f"await asyncio.to_thread(lambda: open({str(fifo)!r}).readline())"
    waits = f"print('running', file=sys.stderr)\n        {reads}\n        return request"
    development.service.write_text(SERVICE.replace("await asyncio.Event().wait()", waits))
    await development.start("--drain", "1000")
    await development.says("serving")
    async with connect(development.address) as channel:
        await method(channel)(StringValue())
        await development.says("running")
    development.process.send_signal(signal.SIGINT)
    await development.says("stopping")
    development.process.kill()
    # Its own wait would be for the server's end, too, which has its pipe; and it may have been the first to see it die.
    with contextlib.suppress(ChildProcessError):
        await asyncio.to_thread(os.waitid, os.P_PID, development.process.pid, os.WEXITED | os.WNOWAIT)
    with fifo.open("r+b", buffering=0) as way:
        way.write(b"go on\n")
        await development.process.communicate()
    with contextlib.closing(sqlite3.connect(development.folder / "data" / "longshore.db")) as database:
        assert database.execute("SELECT count(*), count(stopped) FROM boots").fetchall() == [(1, 1)]


async def test_what_does_not_load_is_ended_by_the_next_change(development: Development) -> None:
    development.service.write_text(f"{SERVICE}\n{HANGING}")
    await development.start()
    await development.says("hangs")
    development.service.write_text(SERVICE)
    await development.says("serving")
    development.service.write_text(f"{SERVICE}\n{HANGING}")
    await development.says("hangs")
    await development.stop()


@pytest.mark.parametrize("hanging", ["", HANGING])
async def test_its_end_is_the_servers_even_if_it_is_killed(development: Development, hanging: str) -> None:
    await development.start("--metrics", "127.0.0.1:0")
    await development.says("serving")
    if hanging:
        await development.heard()
        development.service.write_text(f"{SERVICE}\n{hanging}")
        await development.says("hangs")
    development.process.kill()
    # All of them write there: it ends with the last of them.
    _, err = await development.process.communicate()
    assert err.decode() == "  stopping\n"
    with contextlib.closing(sqlite3.connect(development.folder / "data" / "longshore.db")) as database:
        assert database.execute("SELECT count(*), count(stopped) FROM boots").fetchall() == [(1, 1)]


async def test_a_hint_at_the_keyboard_is_for_who_has_used_it(development: Development) -> None:
    await development.start()
    await development.says("serving")
    development.service.write_text(DONE)
    await development.says("serving")
    await development.heard()
    assert "  stopping\n" in development.said
    assert not any("Ctrl-C" in line for line in development.said)
    development.process.send_signal(signal.SIGINT)
    await development.says("stopping; press Ctrl-C again to stop at once")
    _, err = await development.process.communicate()
    assert (development.process.returncode, err) == (0, b"")


async def test_of_a_broken_contract_the_server_knows_nothing(development: Development) -> None:
    await development.start()
    await development.says("serving")
    async with connect(development.address) as channel:
        before = await method(channel)(StringValue(value="before"))
        development.contract.write_text(CONTRACT + "nonsense")
        await development.says("waiting for the next change")
        assert any("error: " in line and "dev.proto:16" in line for line in development.said)
        with pytest.raises(StillRunning):
            await before.wait(0)
        assert not any("stopping" in line for line in development.said)

        development.contract.write_text(CONTRACT + "message Extra {}")
        development.service.write_text(DONE)
        await development.says("serving")
        assert await before.wait() == StringValue(value="before, done")
    assert "Extra" in (development.folder / "dev" / "v1" / "dev_pb2.pyi").read_text()


async def test_it_waits_where_nothing_works_from_the_start(development: Development) -> None:
    development.contract.write_text("nonsense")
    await development.start()
    await development.says("waiting for the next change")
    development.contract.write_text(CONTRACT)
    await development.says("serving")


async def test_what_it_writes_itself_is_no_change(development: Development) -> None:
    await development.start()
    await development.says("serving")
    development.replace(development.contract, CONTRACT.replace("service DevService", "// Said.\nservice DevService"))
    await development.says("serving")
    development.replace(development.service, DONE)
    await development.says("serving")
    changes = [line.strip() for line in development.said if line.endswith(" changed\n")]
    assert changes == ["dev.proto changed", "service.py changed"]


@pytest.mark.parametrize("waits", ["await asyncio.Event().wait()", "threading.Event().wait()"])
async def test_a_second_signal_ends_a_server_that_does_not(development: Development, waits: str) -> None:
    """For its handlers have time; or for one of them holds its event loop up."""
    text = f"print('running', file=sys.stderr)\n        {waits}"
    development.service.write_text("import threading" + SERVICE.replace("await asyncio.Event().wait()", text))
    await development.start("--drain", "1000")
    await development.says("serving")
    async with connect(development.address) as channel:
        start = asyncio.ensure_future(method(channel)(StringValue()))  # the handler may hold up the answer, too
        await development.says("running")
        development.process.send_signal(signal.SIGINT)
        if "await" in waits:
            await development.says("stopping")
        # Another one: of two that are alike and come at once there may be one.
        development.process.send_signal(signal.SIGTERM)
        await development.process.communicate()
        start.cancel()
        await asyncio.wait([start])
    assert development.process.returncode == 0


async def test_so_does_it_one_that_has_yet_to_serve(development: Development) -> None:
    """Its lifespan holds the event loop up."""
    hangs = "import threading; print('running', file=sys.stderr); threading.Event().wait()"
    development.service.write_text(LIFELESS.replace('raise RuntimeError("no warehouse")', hangs))
    await development.start("--drain", "1000")
    await development.says("running")
    development.process.send_signal(signal.SIGINT)
    development.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(development.process.communicate(), 60)
    assert development.process.returncode == 0
