"""`longshore upload` and `download` as a user meets them, and bytes in what the other commands show."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import gc
import hashlib
import json
import os
import pty
import signal
from pathlib import Path
from typing import Any, cast

import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore.v1.transfers_service_pb2 import QueryUploadRequest
from longshore_client.cli.bytes import _ended
from longshore_server.errors import Reason, ServiceError
from tests.cli.test_cli import COMMAND, Run, command, spawn
from tests.cli.test_terminal import Terminal
from tests.client.carrying import MB, lab, some, stored
from tests.server.transfers.bytes_service import BytesLab
from tests.warm import longshore

__all__ = ["lab"]

KEY = ("-d", '{"key": "incoming/report.pdf"}')
DATA = some(3 * MB)


@pytest.fixture
def run(lab: BytesLab) -> Run:
    return functools.partial(command, lab)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a report.pdf"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("parts", ["1", "3"])
async def test_a_file_is_sent_and_its_operation_followed(lab: BytesLab, run: Run, file: Path, parts: str) -> None:
    done = await run("upload", "BytesService/Upload", str(file), *KEY, "--parts", parts)
    assert done.code == 0
    (result,) = done.json
    assert result == {"text": hashlib.sha256(DATA).hexdigest(), "number": str(len(DATA))}
    said = done.err.splitlines()
    assert said[0].startswith("operations/")
    assert said[1].split() == ["stored", "3.0", "MB", "0.0", "s"]
    assert said[-1] == "✔ completed in 0.0 s"
    assert await stored(lab) == DATA


async def test_standard_input_is_sent(lab: BytesLab, run: Run) -> None:
    done = await run("upload", "BytesService/Upload", "-", *KEY, stdin="from a pipe")
    assert done.code == 0
    assert await stored(lab) == b"from a pipe"


async def test_json_is_one_event_a_line(lab: BytesLab, run: Run, file: Path) -> None:
    done = await run("upload", "BytesService/Upload", str(file), *KEY, "--json", "--label", "tenant=acme")
    assert (done.code, done.err) == (0, "")
    assert {event["operation"] for event in done.json} == {done.json[0]["name"]}
    kinds = [event["type"] for event in done.json]
    assert (kinds[:2], kinds[-1]) == (["accepted", "started"], "completed")
    last = [event["upload"] for event in done.json if event["type"] == "transfer"][-1]
    digests = {"sha256": hashlib.sha256(DATA).hexdigest(), "state": "COMMITTED", "committed_size": len(DATA)}
    assert {key: last[key] for key in digests} == digests
    shown = (await run("get", done.json[0]["name"], "--json")).json[0]
    assert (shown["upload"], shown["labels"]) == (last, {"tenant": "acme"})


async def halted(lab: BytesLab, size: int) -> tuple[asyncio.subprocess.Process, str]:
    """A command that sends what comes from a pipe, of which so much is durable; and its operation."""
    process = await spawn(lab.harness.address, "upload", "BytesService/Upload", "-", *KEY, "--json")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(DATA[:size])
    name = json.loads(await process.stdout.readline())["name"]
    request = QueryUploadRequest(name=name.replace("operations", "uploads"))
    while (await lab.transfers.QueryUpload(request)).committed_size < size:
        await lab.catch_up()
    return process, name


@pytest.mark.parametrize("size", [0, MB])
async def test_ctrl_c_leaves_what_was_sent_and_another_command_goes_on(
    lab: BytesLab, run: Run, file: Path, size: int
) -> None:
    process, name = await halted(lab, size)
    process.send_signal(signal.SIGINT)
    # Whatever the pipe does: it says nothing, and stays open.
    assert process.stderr is not None
    err = (await process.stderr.read()).decode().strip()
    assert await process.wait() == 130
    # What a watch would show is an upload that nobody sends.
    assert err == f"{name} goes on. Come back with the same bytes in a FILE: longshore upload --resume {name} FILE"
    assert process.stdin is not None
    process.stdin.close()
    if size:
        # The pipe is not read: it would have given all of it for nothing.
        refused = await run("upload", "--resume", name, "-", stdin="from a pipe")
        assert refused.code == 6
        assert f"{size} bytes of {name.replace('operations', 'uploads')} are durable already" in refused.err
        assert "as from a pipe, cannot go on from there: send a file" in refused.err
    done = await run("upload", "--resume", name, str(file))
    assert (done.code, done.json[0]["number"]) == (0, str(len(DATA)))
    found = "it has 1.0 MB already: what follows is sent" if size else "it existed already"
    assert done.err.splitlines()[:2] == [name, found]
    assert await stored(lab) == DATA


@pytest.fixture
def hung(lab: BytesLab) -> asyncio.Event:
    """A server that answers nothing to bytes; set once it has some."""
    write, reached = lab.engine.transfers.uploads.write, asyncio.Event()

    async def hang(*arguments: Any) -> None:
        await write(*arguments)
        reached.set()
        await asyncio.Event().wait()

    lab.engine.transfers.uploads.write = hang
    return reached


@pytest.mark.parametrize("parts", [(), ("--parts", "3")])
async def test_ctrl_c_with_a_file_says_how_to_go_on_with_it(
    lab: BytesLab, hung: asyncio.Event, file: Path, parts: tuple[str, ...]
) -> None:
    process = await spawn(lab.harness.address, "upload", "BytesService/Upload", str(file), *KEY, "--json", *parts)
    await hung.wait()
    assert process.stdout is not None
    name = json.loads(await process.stdout.readline())["name"]
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    said = " ".join((f"{name} goes on. Come back with: longshore upload --resume {name} '{file}'", *parts))
    assert err.decode().strip() == said


async def test_ctrl_c_leaves_a_terminal_in_order(lab: BytesLab, hung: asyncio.Event, file: Path) -> None:
    shown = Terminal(lab.harness.address, 80)
    try:
        await shown.run("upload", "BytesService/Upload", str(file), *KEY)
        await hung.wait()
        await shown.shows("sending")
        shown.type(b"\x03")
        assert await shown.ended() == 130
    finally:
        await shown.close()
    name, bar, *words = shown.lines
    assert shown.bars == [bar]
    said = f"{name} goes on. Come back with: longshore upload --resume {name} '{file}'"
    # Blanks at the end of a row are not told from the row's rest.
    assert "".join(words).replace(" ", "") == said.replace(" ", "")
    assert shown.column == 0, "a shell's prompt begins its line"


def refuses(lab: BytesLab, *refusals: ServiceError) -> None:
    """The next bytes are refused, once for each, and those after them taken."""
    write, left = lab.engine.transfers.uploads.write, list(refusals)

    async def writes(*arguments: Any) -> None:
        if left:
            raise left.pop(0)
        await write(*arguments)

    lab.engine.transfers.uploads.write = writes


async def test_a_disk_that_stays_full_ends_the_command_and_that_says_how_to_go_on(
    lab: BytesLab, run: Run, file: Path
) -> None:
    refuses(lab, ServiceError(Reason.STORE_FULL, "there is no room.", retry_after=3600.0))
    done = await run("upload", "BytesService/Upload", str(file), *KEY)
    name, error = done.err.splitlines()
    back = f"{name} goes on. Come back with: longshore upload --resume {name} '{file}'"
    assert (done.code, error) == (6, f"error: there is no room; try again in 3600 s; {back}")
    assert (await run("upload", "--resume", name, str(file))).code == 0
    assert await stored(lab) == DATA


@pytest.mark.parametrize("reason", [Reason.STORE_UNAVAILABLE, Reason.STORE_FULL])
async def test_a_server_that_cannot_write_is_said_once_to_answer(
    lab: BytesLab, run: Run, file: Path, reason: Reason
) -> None:
    refuses(lab, *[ServiceError(reason, "The disk is away.", retry_after=0.001) for _ in range(2)])
    done = await run("upload", "BytesService/Upload", str(file), *KEY)
    assert done.code == 0
    assert done.err.splitlines()[1] == f"{lab.harness.address}: The disk is away; trying again"
    assert done.err.count("trying again") == done.err.count("back after ") == 1
    assert "does not answer" not in done.err


async def test_what_is_sent_again_is_said_to_be_there(lab: BytesLab, run: Run, file: Path) -> None:
    send = ("upload", "BytesService/Upload", str(file), *KEY, "--request-id", "nightly-7")
    first, again = await run(*send), await run(*send)
    name, *said = again.err.splitlines()
    assert said == ["it has all of its 3.0 MB already: nothing is sent", *first.err.splitlines()[1:]]
    assert (again.code, again.out) == (0, first.out)
    resumed = await run("upload", "--resume", name, str(file))
    assert (resumed.code, resumed.err) == (0, again.err)
    in_json = await run("upload", "--resume", name, str(file), "--json")
    assert (in_json.code, in_json.err, in_json.json[-1]["type"]) == (0, "", "completed")


async def test_other_bytes_than_were_sent_are_not_taken_for_them(run: Run, file: Path, tmp_path: Path) -> None:
    name = (await run("upload", "BytesService/Upload", str(file), *KEY)).err.splitlines()[0]
    for data, reason in ((DATA[:-1] + b"!", "DIGEST_MISMATCH"), (DATA[:-1], "SIZE_MISMATCH")):
        (tmp_path / "other").write_bytes(data)
        done = await run("upload", "--resume", name, str(tmp_path / "other"))
        assert (done.code, done.out) == (6, "")
        assert done.err.splitlines()[-1].startswith("error: ")
        assert done.err.endswith(f"({reason})\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("BytesService/Upload",), 2, "give the TYPE and the FILE"),
        (("--resume", "x", "TYPE", "FILE"), 2, "give FILE alone with --resume"),
        (("--resume", "x", "FILE", "--label", "a=b"), 2, "leave out -d, --request-id and --label"),
        (("BytesService/Upload", "-", "-d", "-"), 2, "cannot both be stdin"),
        (("BytesService/Export", "FILE", *KEY), 2, "takes no bytes: start it with `longshore call`"),
        (("LabService/Play", "FILE"), 2, "takes no bytes"),
        (("BytesService/Upload", "missing", *KEY), 2, "missing cannot be sent: No such file or directory"),
        (("BytesService/Upload", "-", *KEY, "--parts", "2"), 2, "comes only once"),
        (("BytesService/Upload", "FILE", *KEY, "--parts", "65"), 2, "65 is not in the range"),
        (("BytesService/Upload", "FILE", "-d", '{"key": "../x"}'), 6, "key: "),
        (("BytesService/Small", "FILE", *KEY), 6, "may have 1000 bytes"),
        (("--resume", "none", "FILE"), 6, "There is no operations/none"),
    ],
)
async def test_what_is_wrong_is_said_in_a_sentence(
    lab: BytesLab, run: Run, file: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = await run("upload", *(str(file) if argument == "FILE" else argument for argument in arguments))
    assert (done.code, words in done.err) == (code, True), done
    assert done.err.splitlines()[-1].startswith("error: ")


async def test_an_operation_that_fails_for_want_of_bytes_is_shown_as_failed(lab: BytesLab) -> None:
    process = await spawn(lab.harness.address, "upload", "BytesService/Small", "-", *KEY)
    assert process.stderr is not None
    name = (await process.stderr.readline()).decode().strip()
    await lab.reached(name, "started")
    lab.clock.advance(61)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "the upload has failed: UPLOAD_EXPIRED" in err.decode()
    assert err.decode().splitlines()[-1].startswith("✘ failed after ")


async def test_what_fails_as_the_operation_is_seen_to_end_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Ending:
        async def wait(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("the upload has expired") from None

    following: asyncio.Task[int] = asyncio.ensure_future(asyncio.sleep(0, 1))
    await _ended(cast("Any", Ending()), following)
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    del others
    gc.collect()
    assert not caplog.records


async def test_call_says_that_bytes_are_needed(lab: BytesLab, run: Run) -> None:
    done = await run("call", "BytesService/Upload", *KEY)
    assert (done.code, "`longshore upload BytesService/Upload FILE` sends them with it" in done.err) == (2, True)


# Downloads.


@pytest.fixture
async def offered(lab: BytesLab) -> str:
    """An operation that has offered two files."""

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        for name in ("report.pdf", "notes.txt"):
            await lab.server.stores["exports"].put(name, DATA + name.encode(), content_type="text/plain")
            await op.transfer.offer(name)
        return PlayResult()

    name = (await lab.begin("Offer")).operation.name
    await lab.end(name)
    return name


async def fetch(lab: BytesLab, folder: Path, *arguments: str) -> Any:
    """The command in a folder."""
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "LONGSHORE_SERVER": lab.harness.address}
    process = await asyncio.create_subprocess_exec(
        *longshore(), "download", *arguments, cwd=folder, stdout=pipe, stderr=pipe, env=environment
    )
    out, err = await process.communicate()
    return process.returncode, out, err.decode()


async def test_a_download_is_fetched_by_its_name(lab: BytesLab, offered: str, tmp_path: Path) -> None:
    first, second = [f"downloads/{offered.partition('/')[2]}.{number}" for number in (1, 2)]
    assert await fetch(lab, tmp_path, first) == (0, b"", "report.pdf  3.0 MB\n")
    assert (tmp_path / "report.pdf").read_bytes() == DATA + b"report.pdf"
    assert await fetch(lab, tmp_path, second, "--to", "-") == (0, DATA + b"notes.txt", "")
    code, _, err = await fetch(lab, tmp_path, first)
    assert (code, "report.pdf exists: give --to" in err) == (2, True)
    code, out, _ = await fetch(lab, tmp_path, second, "--json")
    last = json.loads(out.splitlines()[-1])
    assert (code, last["type"], last["file"]) == (0, "downloaded", "notes.txt")
    assert last["download"]["sha256"] == hashlib.sha256(DATA + b"notes.txt").hexdigest()
    assert (tmp_path / "notes.txt").read_bytes() == DATA + b"notes.txt"


async def test_where_to_is_a_file_a_folder_or_a_device(lab: BytesLab, offered: str, tmp_path: Path) -> None:
    name, data = f"downloads/{offered.partition('/')[2]}.1", DATA + b"report.pdf"
    assert await fetch(lab, tmp_path, name, "--to", "x") == (0, b"", "x  3.0 MB\n")
    (tmp_path / "x").write_bytes(b"of the user")
    assert await fetch(lab, tmp_path, name, "--to", "x") == (0, b"", "x  3.0 MB  (replaced)\n")
    assert (tmp_path / "x").read_bytes() == data
    (tmp_path / "here").mkdir()
    assert await fetch(lab, tmp_path, name, "--to", "here") == (0, b"", "here/report.pdf  3.0 MB\n")
    assert (tmp_path / "here" / "report.pdf").read_bytes() == data
    code, _, err = await fetch(lab, tmp_path, name, "--to", "here/")
    assert (code, "here/report.pdf exists: give --to" in err) == (2, True)
    (tmp_path / "null").symlink_to(os.devnull)
    assert await fetch(lab, tmp_path, name, "--to", "null") == (0, b"", "null  3.0 MB\n")
    assert (tmp_path / "null").is_char_device()
    code, _, err = await fetch(lab, tmp_path, name, "a file")
    assert (code, f"say where to with --to: longshore download {name} --to 'a file';" in err) == (2, True)


async def test_who_reads_a_download_may_have_had_enough(lab: BytesLab, offered: str, tmp_path: Path) -> None:
    name, pipe = f"downloads/{offered.partition('/')[2]}.1", asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", '"$0" "$@" | head -c 5', *COMMAND, "download", name, "--to", "-", stdout=pipe, stderr=pipe,
        env={**os.environ, "LONGSHORE_SERVER": lab.harness.address},
    )  # fmt: skip
    assert await process.communicate() == (DATA[:5], b"")


@pytest.mark.parametrize("to", ["-", "pipe"])
async def test_ctrl_c_ends_a_download_though_nobody_reads_it(
    lab: BytesLab, offered: str, tmp_path: Path, to: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader, full = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), asyncio.Event()
    with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
        process = await asyncio.create_subprocess_exec(
            *longshore(), "download", f"downloads/{offered.partition('/')[2]}.1", "--to", to, cwd=tmp_path, stdout=pipe,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "LONGSHORE_SERVER": lab.harness.address},
        )  # fmt: skip
    asyncio.get_running_loop().add_reader(reader, full.set)
    try:
        await full.wait()
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)
    # There is no part of it to go on with.
    assert (process.returncode, err.decode().strip()) == (130, "interrupted")


async def test_a_file_that_another_download_writes_to_is_left_to_it(
    lab: BytesLab, offered: str, tmp_path: Path
) -> None:
    with (tmp_path / "x.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, err = await fetch(lab, tmp_path, f"downloads/{offered.partition('/')[2]}.1", "--to", "x")
    why = "another download writes to it; wait until that has ended, or fetch into another file"
    assert (code, err) == (1, f"error: x cannot be written: {why}\n")


async def test_a_disk_that_is_full_keeps_what_has_come_and_says_how_to_go_on(
    lab: BytesLab, offered: str, tmp_path: Path
) -> None:
    name, pipe = f"downloads/{offered.partition('/')[2]}.1", asyncio.subprocess.PIPE
    # A limit of the system's for files stands for the disk.
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", 'ulimit -f 1024; exec "$0" "$@"', *COMMAND, "download", name, "--to", "x", cwd=tmp_path,
        stderr=pipe, env={**os.environ, "LONGSHORE_SERVER": lab.harness.address},
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 1
    again = f"longshore download {name} --to x --resume"
    assert err.decode() == (
        f"error: x cannot be written: File too large; x.part has what has come. Come back with: {again}\n"
    )
    assert 0 < (tmp_path / "x.part").stat().st_size < len(DATA)
    assert await fetch(lab, tmp_path, *again.split()[2:]) == (0, b"", "x  3.0 MB\n")
    assert (tmp_path / "x").read_bytes() == DATA + b"report.pdf"


async def test_a_download_goes_on_with_what_is_there(lab: BytesLab, offered: str, tmp_path: Path) -> None:
    name = f"downloads/{offered.partition('/')[2]}.1"
    (tmp_path / "x.part").write_bytes(DATA[:MB])
    assert (await fetch(lab, tmp_path, name, "--to", "x", "--resume"))[0] == 0
    assert (tmp_path / "x").read_bytes() == DATA + b"report.pdf"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("OPERATION", 2, "name the one to fetch: downloads/"),
        ("downloads/OPERATION.3", 2, "name the one to fetch: downloads/"),
        ("operations/none", 6, "There is no operations/none"),
    ],
)
async def test_which_one_is_meant_must_be_clear(
    lab: BytesLab, offered: str, tmp_path: Path, name: str, code: int, words: str
) -> None:
    got, _, err = await fetch(lab, tmp_path, name.replace("OPERATION", offered.partition("/")[2]))
    assert (got, words in err) == (code, True), err


async def test_an_operation_with_nothing_to_fetch_says_so(lab: BytesLab, tmp_path: Path) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def nothing(request: Any, op: Any) -> PlayResult:
        await gate.wait()
        return PlayResult()

    name = (await lab.begin("Offer")).operation.name
    code, _, err = await fetch(lab, tmp_path, name)
    assert (code, "there is nothing to fetch yet" in err) == (2, True)
    gate.set()
    await lab.end(name)
    code, _, err = await fetch(lab, tmp_path, name)
    assert (code, "it has ended and offers nothing" in err) == (2, True), err


async def test_watch_shows_what_is_offered(lab: BytesLab, run: Run, offered: str) -> None:
    shown = await run("watch", offered)
    assert "offers    report.pdf  3.0 MB  text/plain  downloads/" in shown.err
    events = (await run("watch", offered, "--json", "--type", "offered")).json
    assert [event["download"]["filename"] for event in events[:-1]] == ["report.pdf", "notes.txt"]


async def test_a_terminal_gets_a_bar_of_bytes(lab: BytesLab, file: Path) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "LONGSHORE_SERVER": lab.harness.address, "TERM": "xterm", "COLUMNS": "120"}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "upload", "BytesService/Upload", str(file), *KEY, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)

    def read() -> bytes:
        shown = b""
        while True:
            try:
                chunk = os.read(master, 4096)
            except OSError:  # the other end has closed
                return shown
            if not chunk:
                return shown
            shown += chunk

    text = (await asyncio.to_thread(read)).decode()
    os.close(master)
    assert await process.wait() == 0, text
    assert "sending" in text
    assert "of 3.0 MB" in text
    assert "stored    3.0 MB" in text
