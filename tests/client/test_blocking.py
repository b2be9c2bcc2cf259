"""The blocking client: what the asyncio one does, from threads that block."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bytes.v1.bytes_longshore import BytesBlockingClient
from bytes.v1.bytes_pb2 import BytesRequest
from lab.v1.lab_longshore import LabBlockingClient
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult
from lab.v1.signals_longshore import SignalsBlockingClient
from lab.v1.signals_pb2 import Approve

from longshore_client import (
    CallCancelled,
    Completed,
    NotFound,
    OperationFailed,
    Progress,
    SendProgress,
    State,
    StillRunning,
)
from longshore_client.blocking import connect
from longshore_server import OperationError
from tests.conftest import Lab
from tests.server.signalling import SignalHandlers
from tests.server.transfers.bytes_service import BytesLab


async def play(request: Any, op: Any) -> PlayResult:
    for number in range(1, 4):
        await op.progress(PlayProgress(number=number))
    return PlayResult(text=request.script)


async def hang(request: Any, op: Any) -> PlayResult:
    await op.progress(PlayProgress(number=1))
    await asyncio.Event().wait()
    raise AssertionError


async def test_starts_watches_waits_lists_and_counts(lab: Lab) -> None:
    lab.plays(play)

    def caller() -> None:
        with connect(lab.harness.address) as channel:
            client = LabBlockingClient(channel)
            operation = client.play(PlayRequest(script="x"), labels={"a": "b"})
            assert operation.created
            events = list(operation.watch())
            assert [event.value.number for event in events if isinstance(event, Progress)] == [1, 2, 3]
            assert isinstance(events[-1], Completed)
            assert operation.wait() == PlayResult(text="x")
            assert client.play.attach(operation.name).get().state == State.COMPLETED
            assert [found.name for found in client.play.list('labels.a="b"')] == [operation.name]
            assert client.play.count() == {State.COMPLETED: 1}
            assert operation.retry().wait() == PlayResult(text="x")

    await asyncio.to_thread(caller)


async def test_errors_are_those_of_the_asyncio_client(lab: Lab) -> None:
    @lab.plays
    async def fail(request: Any, op: Any) -> PlayResult:
        raise OperationError("OUT_OF_STOCK", "no A1 left")

    def caller() -> None:
        with connect(lab.harness.address) as channel:
            client = LabBlockingClient(channel)
            with pytest.raises(OperationFailed, match="no A1 left"):
                client.play.run(PlayRequest())
            with pytest.raises(NotFound):
                client.play.attach("operations/none").get()

    await asyncio.to_thread(caller)


async def test_callbacks_may_block_and_call(lab: Lab) -> None:
    lab.plays(play)

    def caller() -> None:
        with connect(lab.harness.address) as channel:
            client = LabBlockingClient(channel)
            seen: list[Any] = []

            def tell(progress: PlayProgress) -> None:
                # A call in the loop's own thread would wait for itself.
                seen.append((progress.number, client.play.count().total()))

            assert client.play.run(PlayRequest(script="x"), on_progress=tell) == PlayResult(text="x")
            assert seen == [(1, 1), (2, 1), (3, 1)]

            def fall(progress: PlayProgress) -> None:
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                client.play.run(PlayRequest(), on_progress=fall)

    await asyncio.to_thread(caller)


async def test_a_watch_that_is_left_early_is_closed_and_another_goes_on_across_a_restart(lab: Lab) -> None:
    lab.plays(hang)
    loop = asyncio.get_running_loop()

    def restart() -> None:
        lab.plays(play)
        asyncio.run_coroutine_threadsafe(lab.restart(), loop).result()

    def caller() -> None:
        with connect(lab.harness.address) as channel:
            operation = LabBlockingClient(channel).play(PlayRequest())
            watch = operation.watch()
            assert next(watch).sequence == 1
            watch.close()
            assert not channel.inner.streams
            sequences = []
            for event in operation.watch():
                sequences.append(event.sequence)
                if isinstance(event, Progress) and len(sequences) == 3:
                    restart()
            assert sequences == list(range(1, len(sequences) + 1))
            assert operation.wait() == PlayResult()

    await asyncio.to_thread(caller)


async def test_many_threads_share_one_channel(lab: Lab) -> None:
    lab.plays(play)

    def caller() -> None:
        with connect(lab.harness.address) as channel, ThreadPoolExecutor(16) as threads:
            client = LabBlockingClient(channel)
            texts = [str(number) for number in range(64)]
            results = threads.map(lambda text: client.play.run(PlayRequest(script=text)).text, texts)
            assert list(results) == texts

    await asyncio.to_thread(caller)


async def test_closing_ends_the_waits_of_other_threads_and_the_client_is_then_of_no_use(lab: Lab) -> None:
    lab.plays(hang)

    def caller() -> None:
        before = threading.active_count()
        channel = connect(lab.harness.address)
        operation = LabBlockingClient(channel).play(PlayRequest())
        with ThreadPoolExecutor(2) as threads:
            watch = operation.watch()
            assert next(watch).sequence == 1
            waiting = threads.submit(operation.wait)
            following = threads.submit(list, watch)
            with pytest.raises(StillRunning):
                operation.wait(0.01)
            channel.close()
            channel.close()
            for call in (waiting, following):
                assert "closed" in str(call.exception())
        with pytest.raises(RuntimeError, match="the channel is closed"):
            operation.get()
        assert threading.active_count() == before

    await asyncio.to_thread(caller)


async def test_what_closing_ends_is_told_to_its_callers_in_one_way_and_to_nobody_else(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.plays(hang)

    def caller() -> None:
        with connect(lab.harness.address) as channel:
            name = LabBlockingClient(channel).play(PlayRequest()).name
        for _ in range(20):
            channel = connect(lab.harness.address)
            operation = LabBlockingClient(channel).play.attach(name)
            watch = operation.watch()
            next(watch)
            with ThreadPoolExecutor(2) as threads:
                calls: list[Future[Any]] = [threads.submit(operation.wait), threads.submit(list, watch)]
                channel.close()
            for call in calls:
                error = call.exception()
                assert isinstance(error, CallCancelled) or str(error) == "the channel is closed"  # before it began

    await asyncio.to_thread(caller)
    gc.collect()  # what nobody has heard of says so when it is collected
    # gRPC has lines of its own for two loops in a process, of which one ends.
    assert "never retrieved" not in caplog.text


async def test_signals_have_their_payloads(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "data", services=[SignalHandlers])
    await lab.start()

    @lab.plays
    async def listen(request: Any, op: Any) -> PlayResult:
        return PlayResult(number=(await op.next_signal("approve")).payload.amount)

    def caller() -> None:
        with connect(lab.harness.address) as channel:
            operation = SignalsBlockingClient(channel).listen(PlayRequest())
            assert operation.signal("approve", Approve(amount=7)).number == 1
            assert operation.wait().number == 7

    try:
        await asyncio.to_thread(caller)
    finally:
        await lab.stop()


async def test_bytes_are_sent_and_fetched(tmp_path: Path) -> None:
    lab = BytesLab(tmp_path / "data")
    await lab.start()

    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"longshore" * 100_000)
    await lab.server.stores["exports"].put("k", source.read_bytes())

    @lab.plays
    async def keep(request: Any, op: Any) -> PlayResult:
        return PlayResult(number=(await op.transfer.completed()).size)

    def caller() -> None:
        with connect(lab.harness.address) as channel:
            client = BytesBlockingClient(channel)
            told: list[SendProgress] = []
            upload = client.upload(BytesRequest(key="k")).transfer(source).on_transfer(told.append).start()
            assert upload.wait().number == upload.sent().committed_size == 900_000
            assert told[-1].committed == 900_000
            lab.handlers.handler = None
            operation = client.export(BytesRequest(key="k"))
            assert operation.download(target).size == 900_000
            assert target.read_bytes() == b"".join(operation.open()) == source.read_bytes()

    try:
        await asyncio.to_thread(caller)
    finally:
        await lab.stop()


PRELUDE = """
import asyncio, os, sys
from lab.v1.lab_longshore import LabBlockingClient
from lab.v1.lab_pb2 import PlayRequest
from longshore_client.blocking import connect
channel = connect(sys.argv[1])
client = LabBlockingClient(channel)
"""


async def program(lab: Lab, text: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    paths = str(Path(__file__).parents[1] / "contracts")
    return await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", PRELUDE + text, lab.harness.address, stdout=pipe, stderr=pipe,
        env={"PYTHONPATH": paths},
    )  # fmt: skip


async def test_ctrl_c_ends_the_wait_and_not_the_operation(lab: Lab) -> None:
    lab.plays(hang)
    process = await program(
        lab,
        """
async def others():
    # Returns once nobody but the loop's own is left: never, if the interrupted call goes on.
    while left := {t for t in asyncio.all_tasks() - {asyncio.current_task()} if t.get_coro().__name__ != "_main"}:
        await asyncio.wait(left)
operation = client.play(PlayRequest())
try:
    print(operation.name, flush=True)
    operation.wait()
except KeyboardInterrupt:
    print(operation.get().state.name)
    channel.portal.run(others)
    print("nobody left")
channel.close()
""",
    )
    assert process.stdout is not None
    name = (await process.stdout.readline()).decode().strip()
    await lab.reached(name, "started")
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (out, err, process.returncode) == (b"RUNNING\nnobody left\n", b"", 0)
    assert int((await lab.get(name)).state) == State.RUNNING


INTERRUPTED = """
import faulthandler
faulthandler.dump_traceback_later(200, exit=True)  # should the loop stand still

def interrupted(action, *files):
    # Yields after each time that it was interrupted, one moment later than before, until it was not.
    moments, at = 0, 1
    def trace(frame, event, argument):
        nonlocal moments
        if not any(file in frame.f_code.co_filename for file in files):
            return None
        if event in ("call", "return"):
            moments += 1
            if moments == at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace
    while True:
        moments = 0
        sys.settrace(trace)
        try:
            action()
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        yield
        at += 1
    print(at > 10)
"""


async def test_ctrl_c_may_come_wherever_it_likes(lab: Lab) -> None:
    """Also before a call has begun, or in what it waits by: nothing is left over of it, and no warning is written."""
    lab.plays(hang)
    process = await program(
        lab,
        INTERRUPTED
        + """
operation = client.play(PlayRequest())
for _ in interrupted(operation.get, "longshore_client", "concurrent/futures", "threading.py", "queue.py"):
    assert operation.get().state.name == "RUNNING"
channel.close()
""",
    )
    assert await process.communicate() == (b"True\n", b"")


async def test_so_it_may_where_a_channel_begins_or_ends(lab: Lab) -> None:
    """But for Python's own start of a thread, which is not made for it."""
    process = await program(
        lab,
        INTERRUPTED
        + """
channel.close()
for _ in interrupted(lambda: connect(sys.argv[1]).close(), "longshore_client"):
    with connect(sys.argv[1]) as channel:
        assert LabBlockingClient(channel).play.run(PlayRequest()).text == "played"
""",
    )
    assert await process.communicate() == (b"True\n", b"")


async def test_a_stream_that_was_left_may_be_collected_wherever_python_likes(lab: Lab) -> None:
    lab.plays(hang)
    process = await program(
        lab,
        """
import faulthandler, gc
faulthandler.dump_traceback_later(200, exit=True)  # should it wait for itself
gc.disable()
operation = client.play(PlayRequest())

def leave():
    # Only a collection finds it: it is part of a circle.
    watch = operation.watch()
    next(watch)
    circle = [watch]
    circle.append(circle)

def collected(at):
    # Whether there is such a line; the stream is closed before it.
    lines = 0
    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.endswith("portal.py"):
            return None
        if event == "line":
            lines += 1
            if lines == at:
                gc.collect()
        return trace
    sys.settrace(trace)
    operation.get()
    sys.settrace(None)
    return lines >= at

at = 1
while (leave(), collected(at))[1]:
    assert not channel.inner.streams
    at += 1
print(at > 10)
gc.collect()
channel.close()
""",
    )
    assert await process.communicate() == (b"True\n", b"")


async def test_a_process_without_any_more_files_is_told_so_and_may_connect_later(lab: Lab) -> None:
    process = await program(
        lab,
        """
import faulthandler, resource
faulthandler.dump_traceback_later(200, exit=True)  # should it wait for a loop that never begins
channel.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
try:
    while True:
        files.append(os.dup(0))
except OSError:
    pass
try:
    connect(sys.argv[1])
except OSError as error:
    print(error.strerror)
for file in files:
    os.close(file)
with connect(sys.argv[1]) as channel:
    print(LabBlockingClient(channel).play.run(PlayRequest()).text)
""",
    )
    out, _ = await process.communicate()
    assert out.decode().splitlines() == ["Too many open files", "played"]


async def test_a_forked_process_is_told_to_connect_for_itself(lab: Lab) -> None:
    process = await program(
        lab,
        """
child = os.fork()
if child == 0:
    try:
        client.play(PlayRequest())
    except RuntimeError as error:
        print(error, flush=True)
    channel.close()
    os._exit(0)
os.waitpid(child, 0)
print(client.play.run(PlayRequest()).text)
channel.close()
""",
    )
    out, _ = await process.communicate()
    assert out.decode().splitlines() == [
        "the channel was opened before this process was forked: connect after the fork instead", "played",
    ]  # fmt: skip


async def test_two_channels_work_side_by_side_and_who_forgets_to_close_one_ends_all_the_same(lab: Lab) -> None:
    process = await program(
        lab,
        """
import threading
other = LabBlockingClient(connect(sys.argv[1]))
def many(client):
    for _ in range(30):
        assert client.play.run(PlayRequest()).text == "played"
threads = [threading.Thread(target=many, args=(each,)) for each in (client, other)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
""",
    )
    assert await process.communicate() == (b"done\n", b"")
    assert process.returncode == 0
