"""The command line as a user meets it: what goes to stdout and stderr, and the exit code."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

from longshore.v1.channels_pb2 import CounterProgress, DiagnosticOutput, MilestoneProgress
from longshore.v1.operations_service_pb2 import CancelRequest
from longshore_server import OperationError
from tests.conftest import Lab
from tests.warm import longshore

COMMAND = (sys.executable, "-m", "longshore_client.cli")


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Awaitable[Done]]
MakeLab = Callable[..., Awaitable[Lab]]


@pytest.fixture
def run(lab: Lab) -> Run:
    """Run a command against the laboratory's server."""
    return functools.partial(command, lab)


async def command(lab: Lab, *arguments: str, stdin: str = "") -> Done:
    process = await spawn(lab.harness.address, *arguments)
    out, err = await process.communicate(stdin.encode())
    return Done(process.returncode or 0, out.decode(), err.decode())


async def spawn(address: str, *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "LONGSHORE_SERVER": address}
    return await asyncio.create_subprocess_exec(
        *longshore(), *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    )


async def play(request: Any, op: Any) -> PlayResult:
    await op.progress(PlayProgress(number=1, text="reserving"))
    for channel in DiagnosticOutput.Channel.values()[1:]:
        name = DiagnosticOutput.Channel.Name(channel).removeprefix("CHANNEL_")
        await op.output(DiagnosticOutput(channel=channel, message=f"to {name}"))
    return PlayResult(text=request.script, number=request.count)


async def fail(request: Any, op: Any) -> PlayResult:
    raise OperationError("OUT_OF_STOCK", "no A1 left")


async def hang(request: Any, op: Any) -> PlayResult:
    await op.progress(PlayProgress(text="begun"))
    await op.cancelled.wait()
    return PlayResult()


async def test_call_prints_the_name(lab: Lab, run: Run) -> None:
    lab.plays(play)
    done = await run("call", "lab.v1.LabService/PlayNamed", "-d", '{"key": "a"}')
    assert done == (0, "operations/named-a\n", "")
    done = await run("call", "PlayNamed", "-d", '{"key": "a"}')
    assert done == (0, "operations/named-a\n", "it existed already\n")


async def test_call_watch_sorts_the_channels(lab: Lab, run: Run) -> None:
    lab.plays(play)
    done = await run("call", "LabService/Play", "-d", '{"script": "x", "count": "7"}', "--watch")
    assert done.code == 0
    assert done.out.splitlines() == ["to INFO", "to STDOUT", '{"text": "x", "number": "7"}']
    name, progress, warn, stderr, end = done.err.splitlines()
    assert name.startswith("operations/")
    assert progress.split() == ["number=1", "reserving", "0.0", "s"]
    assert (warn, stderr) == ("to WARN", "to STDERR")
    assert end.startswith("✔ completed in ")


async def test_call_watch_json_has_events_only(lab: Lab, run: Run) -> None:
    lab.plays(play)
    done = await run("call", "Play", "--watch", "--json")
    assert (done.code, done.err) == (0, "")
    kinds = [event["type"] for event in done.json]
    assert kinds == ["accepted", "started", "progress", *["output"] * 4, "completed"]
    assert [event["sequence"] for event in done.json] == list(range(1, 9))
    assert done.json[2]["value"] == {"number": "1", "text": "reserving"}


async def test_the_input_comes_from_a_file_or_from_stdin(lab: Lab, run: Run, tmp_path: Path) -> None:
    lab.plays(play)
    (tmp_path / "input.json").write_text('{"script": "filed"}')
    assert (await run("call", "Play", "-d", f"@{tmp_path}/input.json", "--wait")).json == [{"text": "filed"}]
    assert (await run("call", "Play", "-d", "-", "--wait", stdin='{"script": "piped"}')).json == [{"text": "piped"}]


async def test_request_ids_and_labels(lab: Lab, run: Run) -> None:
    lab.plays(play)
    arguments = ("call", "Play", "--request-id", "k", "--label", "tenant=acme", "--label", "a.b=c=d", "--json")
    first, second = await run(*arguments), await run(*arguments)
    assert first.json[0]["name"] == second.json[0]["name"]
    assert second.json[0]["labels"] == {"tenant": "acme", "a.b": "c=d"}
    assert second.json[0]["request_id"] == "k"


@pytest.mark.parametrize("command", [("call", "Play", "--watch"), ("call", "Play", "--wait")], ids=["watch", "wait"])
async def test_the_exit_code_says_how_it_ended(lab: Lab, run: Run, command: tuple[str, ...]) -> None:
    lab.plays(fail)
    done = await run(*command)
    assert (done.code, done.out) == (1, "")
    assert "no A1 left (OUT_OF_STOCK)" in done.err
    lab.plays(hang)
    timed = await run(*command, "--timeout", "0.3")
    assert timed.code == 4
    assert "come back with `longshore wait operations/" in timed.err


async def test_watch_of_a_failure_in_json(lab: Lab, run: Run) -> None:
    lab.plays(fail)
    done = await run("call", "Play", "--watch", "--json")
    assert done.code == 1
    error = done.json[-1]["error"]
    assert (done.json[-1]["type"], error["reason"], error["message"]) == ("failed", "OUT_OF_STOCK", "no A1 left")
    assert error["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"


@pytest.mark.parametrize("only", [(), ("--after", "2"), ("--type", "output")])
async def test_what_a_watch_says_of_the_time_is_from_the_beginning(lab: Lab, run: Run, only: tuple[str, ...]) -> None:
    async def slow(request: Any, op: Any) -> PlayResult:
        lab.clock.advance(75)
        return PlayResult()

    lab.plays(slow)
    name = (await lab.run()).name
    assert (await run("watch", name, *only)).err.splitlines()[-1] == "✔ completed in 1 min 15 s"


async def test_cancel_get_wait_and_watch(lab: Lab, run: Run) -> None:
    lab.plays(hang)
    name = (await lab.begin("PlayNamed", key="c")).operation.name
    await lab.reached(name, "progress")
    got = await run("get", "named-c", "--json")
    assert got.json[0]["state"] == "RUNNING"
    text = await run("get", name)
    assert ["state", "RUNNING"] in [line.split() for line in text.out.splitlines()]
    cancelled = await run("cancel", name, "--reason", "ordered twice")
    assert cancelled.code == 0
    assert name in cancelled.out
    watched = await run("watch", "named-c", "--after", "2")
    assert watched.code == 3
    assert "ordered twice" in watched.err
    waited = await run("wait", name)
    assert (waited.code, waited.out) == (3, "")
    as_json = await run("wait", name, "--json")
    assert (as_json.code, as_json.json[0]["state"]) == (3, "CANCELLED")
    again = await run("cancel", name)
    assert (again.code, again.out) == (0, f"{name} has ended: CANCELLED\n")
    fields = [line.partition(" ") for line in (await run("get", name)).out.splitlines()]
    assert "cancel_request_time" in [field for field, _, _ in fields], "the longest name is apart from its value"


async def test_a_watch_can_be_filtered(lab: Lab, run: Run) -> None:
    lab.plays(play)
    name = (await lab.begin()).operation.name
    done = await run("watch", name, "--type", "progress", "--json")
    assert [event["type"] for event in done.json] == ["progress", "completed"]


async def test_a_watch_goes_on_across_a_crash(lab: Lab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.progress(PlayProgress(number=op.attempt))
        if op.attempt == 1:
            await asyncio.Event().wait()
        return PlayResult(number=op.attempt)

    name = (await lab.begin()).operation.name
    process = await spawn(lab.harness.address, "watch", name, "--json")
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(3)]
    await lab.restart()
    rest, err = await process.communicate()
    events = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    assert [event["sequence"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[3]["type"] == "attempt_failed"
    assert process.returncode == 0
    # Old versions of grpc write about the connection, too.
    told = [line for line in err.decode().splitlines() if not re.match(r"[WIE]\d{4} |WARNING: All log", line)]
    assert told[0] == f"{lab.harness.address} does not answer; trying again", told
    assert re.fullmatch(r"back after \d+\.\d s", told[1])
    assert len(told) == 2


async def logged(make_lab: MakeLab, how: str) -> tuple[Lab, str]:
    """An operation that ended, of whose many events the log holds only the last."""
    lab = await make_lab(max_events=20)

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        for number in range(60):
            await op.progress(PlayProgress(number=number))
        if how == "FAILED":
            raise OperationError("OUT_OF_STOCK", "no A1 left")
        if how == "CANCELLED":
            await op.cancelled.wait()
        return PlayResult(text="made")

    name = (await lab.begin()).operation.name
    await lab.reached(name, "progress", 60)
    if how == "CANCELLED":
        await lab.operations.Cancel(CancelRequest(name=name, reason="ordered twice"))
    await lab.end(name)
    # What the log has dropped the server may still have in memory.
    await lab.restart(crash=False)
    return lab, name


ENDS = {
    "COMPLETED": (0, '{"text": "made"}\n', "✔ completed in 0.0 s"),
    "FAILED": (1, "", "✘ failed after 0.0 s: no A1 left (OUT_OF_STOCK)"),
    "CANCELLED": (3, "", "■ cancelled after 0.0 s: "),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("after", ["the log's begin", "the end"])
async def test_a_watch_without_a_last_event_tells_how_it_ended(make_lab: MakeLab, how: str, after: str) -> None:
    lab, name = await logged(make_lab, how)
    last = (await lab.get(name)).sequence
    arguments = ("watch", name, "--after", str(last if after == "the end" else 2))
    code, out, end = ENDS[how]
    done = await command(lab, *arguments)
    assert (done.code, done.out) == (code, out)
    title, *notes, line = done.err.splitlines()
    assert title == name
    assert notes == (
        [] if after == "the end" else [f"  the log no longer reaches back: events up to {last} are left out"]
    )
    assert line.startswith(end)
    as_json = await command(lab, *arguments, "--json")
    assert (as_json.code, as_json.err) == (code, "")
    assert [item["type"] for item in as_json.json] == (["snapshot"] if after == "the end" else ["reset", "snapshot"])
    assert {item["snapshot"]["state"] for item in as_json.json} == {how}
    assert {item["operation"] for item in as_json.json} == {name}


async def test_the_server_may_stand_before_the_command(lab: Lab, run: Run) -> None:
    assert (await run("--server", lab.harness.address, "ls")).err == "no operations\n"
    first = await run("--server", "127.0.0.1:1", "ls")
    assert (first.code, "no Longshore server answers at 127.0.0.1:1" in first.err) == (5, True)
    both = await run("--server", "127.0.0.1:1", "ls", "--server", lab.harness.address)
    assert (both.code, both.err) == (0, "no operations\n"), "the nearer one counts"
    group = await run("--server", "127.0.0.1:1", "jobs", "--server", lab.harness.address, "queues")
    assert (group.code, group.err) == (0, "the server has no queues\n")


async def test_options_of_a_connection_are_refused_where_there_is_none(run: Run) -> None:
    useless = await run("--server", "127.0.0.1:1", "--json", "generate", "x")
    sentence = "error: `longshore generate` talks to no server: leave out --server and --json"
    assert (useless.code, useless.err.startswith(sentence)) == (2, True)
    misplaced = await run("--wait", "call", "Play")
    assert (misplaced.code, "; the options of a command stand behind its name; " in misplaced.err) == (2, True)


async def test_the_way_back_goes_to_the_same_server(lab: Lab, run: Run, tmp_path: Path) -> None:
    lab.plays(hang)
    (tmp_path / "my token").write_text("t")
    server, file = lab.harness.address, f"@{tmp_path}/my token"
    for token, options in ((file, f"--token '{file}' --server {server}"), ("secret", f"--server {server}")):
        timed = await run("--token", token, "call", "Play", "--timeout", "0.1", "--server", server)
        assert re.search(rf"come back with `longshore wait operations/\S+ {options}`", timed.err), timed.err


async def test_ctrl_c_leaves_it_running_and_says_how_to_come_back(lab: Lab) -> None:
    lab.plays(hang)
    name = (await lab.begin("PlayNamed", key="i")).operation.name
    process = await spawn(lab.harness.address, "watch", name, "--json")
    assert process.stdout is not None
    for _ in range(3):
        await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode().strip() == f"{name} goes on. Come back with: longshore watch {name} --after 3"
    assert (await lab.operations.Get(get_request(name))).state == 2


def get_request(name: str) -> Any:
    from longshore.v1.operations_service_pb2 import GetRequest

    return GetRequest(name=name)


async def test_a_reader_that_goes_away_is_no_error(lab: Lab) -> None:
    lab.plays(hang)
    for _ in range(3):
        await lab.begin()
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m longshore_client.cli ls --json | head -c 1 > /dev/null",
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LONGSHORE_SERVER": lab.harness.address},
    )
    _, err = await process.communicate()
    assert err == b""


async def test_ls_and_types(lab: Lab, run: Run) -> None:
    assert await run("ls") == (0, "", "no operations\n")
    lab.plays(play)
    for key in ("a", "b", "c"):
        await lab.end((await lab.begin("PlayNamed", key=key)).operation.name)
    lab.plays(hang)
    await lab.reached((await lab.begin("PlayNamed", key="d")).operation.name, "progress")
    listed = await run("ls")
    head, *rows = listed.out.splitlines()
    assert head.split() == ["NAME", "TYPE", "STATE", "AGE", "PROGRESS"]
    assert [row.split()[:3] for row in rows] == [
        ["operations/named-d", "LabService/PlayNamed", "RUNNING"],
        *(["operations/named-" + key, "LabService/PlayNamed", "COMPLETED"] for key in "cba"),
    ]
    assert rows[0].endswith("begun")
    running = await run("ls", "--filter", "state=RUNNING", "--json")
    assert [item["name"] for item in running.json] == ["operations/named-d"]
    limited = await run("ls", "--limit", "2")
    assert len(limited.out.splitlines()) == 3
    assert "there are more than 2" in limited.err
    types = await run("types", "--json")
    play_type = next(item for item in types.json if item["type"] == "lab.v1.LabService/Play")
    assert play_type["progress_type"] == "lab.v1.PlayProgress"
    assert "lab.v1.LabService/Fire" in (await run("types")).out


async def test_standard_progress_and_own_outputs_are_readable(lab: Lab, run: Run) -> None:
    @lab.plays
    async def climb(request: Any, op: Any) -> PlayResult:
        await op.progress(MilestoneProgress(step=2, total_steps=3, label="Connecting"))
        return PlayResult()

    assert "  Connecting  2/3 " in (await run("call", "Climb", "--watch")).err

    @lab.plays
    async def count(request: Any, op: Any) -> PlayResult:
        await op.progress(CounterProgress(current=5, message="rows"))
        await op.output(PlayProgress(number=3, text="own"))
        return PlayResult()

    done = await run("call", "LabService/Count", "--watch")
    assert "  rows  5 " in done.err
    assert done.out.splitlines() == ["number=3  own", "{}"]


async def test_an_empty_result_prints_nothing(lab: Lab, run: Run) -> None:
    assert (await run("call", "Fire", "--watch")).out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("call", "Plya"), 6, "the server has no operation type 'Plya'; did you mean 'Play'?"),
        (("call", "LabServce/Play"), 6, "did you mean 'LabService/Play'?"),
        (("call", "Xyz"), 6, "the server has no operation type 'Xyz': see `longshore types`"),
        (("call", "lab.v1.LabService/Plya"), 6, "did you mean 'lab.v1.LabService/Play'?"),
        (("call", "Play", "-d", "{x"), 2, "-d is not JSON: "),
        (("call", "Play", "-d", '{"nope": 1}'), 2, "its fields are key, script, count, request_id, payload"),
        (
            ("call", "Play", "-d", "[]"),
            2,
            "does not fit lab.v1.PlayRequest: it must be an object, as in {}, and not []; ",
        ),
        (("call", "Play", "-d", "5"), 2, "it must be an object, as in {}, and not 5; its fields are key, "),
        (("call", "Play", "-d", "@/does/not/exist"), 2, "cannot be read: No such file or directory"),
        (("call", "Play", "--label", "Tenant=x"), 2, "write KEY=VALUE, the key in lower case"),
        (("call", "PlayByRules", "-d", '{"title": "x"}'), 6, "title"),
        (("call", "PlayNamed", "-d", '{"key": ""}'), 6, "key"),
        (("call",), 2, "Missing argument 'TYPE'; `longshore call --help` shows how"),
        (("get", "nope"), 6, "`longshore ls` shows what exists"),
        (("watch", "nope"), 6, "`longshore ls` shows what exists"),
        (("cancel", "nope"), 6, "`longshore ls` shows what exists"),
        (("get", "a/b"), 6, "is not of the form operations/{id}"),
        (("ls", "--filter", "nope=1"), 6, "there is no field 'nope'"),
        (("sl",), 2, "there is no command 'sl'"),
        (("types", "--server", "127.0.0.1:1"), 5, "no Longshore server answers at 127.0.0.1:1"),
        (("types", "--server", "unix:/does/not/exist.sock"), 5, "no Longshore server answers at unix:"),
        (("types", "--server", "http://127.0.0.1:1"), 5, "give --server HOST:PORT, without http://"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_errors_are_one_sentence(run: Run, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    done = await run(*arguments)
    assert done.code == code, done
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, "one line, no traceback"
    assert sentence in done.err


async def test_not_cancellable_is_refused(lab: Lab, run: Run) -> None:
    lab.plays(hang)
    name = (await lab.begin("PlayThrough")).operation.name
    done = await run("cancel", name)
    assert done.code == 6
    assert "NOT_CANCELLABLE" in done.err or "cancel" in done.err


async def test_a_server_without_our_service_is_told_apart(run: Run) -> None:
    import grpc.aio

    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        done = await run("ls", "--server", f"127.0.0.1:{port}")
    finally:
        await other.stop(0)
    assert done.code == 6
    assert "is not a Longshore server" in done.err


async def test_what_needs_reflection_says_how_to_have_it(make_lab: MakeLab) -> None:
    lab = await make_lab(reflection="off")
    done = await command(lab, "call", "Play")
    assert done.code == 6
    need = "offers no server reflection, which this command needs: serve it without --reflection off"
    assert done.err == f"error: {lab.harness.address} {need} (NO_REFLECTION)\n"
    assert (await command(lab, "ls")).code == 0, "what needs none does without"


async def test_a_server_without_reflection_is_known_however_often_it_is_asked() -> None:
    """It refuses before it has the question: the refusal is what is told, and no failure to send the question."""
    import grpc

    from longshore_client import Unimplemented, connect
    from longshore_client.cli.reflection import Types

    # In a thread of its own: it refuses while this one is about to send.
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        async with connect(f"127.0.0.1:{port}") as channel:
            for _ in range(50):
                asked = (Types(channel).load("lab.v1.PlayRequest") for _ in range(4))
                for answer in await asyncio.gather(*asked, return_exceptions=True):
                    assert isinstance(answer, Unimplemented)
                    assert answer.reason == "NO_REFLECTION"
    finally:
        await asyncio.to_thread(other.stop(0).wait)


async def test_a_unix_socket_works(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "data", listen=(f"unix:{tmp_path}/s.sock",))
    await lab.start()
    try:
        process = await spawn(f"unix:{tmp_path}/s.sock", "types")
        out, _ = await process.communicate()
    finally:
        await lab.stop()
    assert b"lab.v1.LabService/Play" in out


def test_help_is_fast_and_has_examples_and_exit_codes() -> None:
    spans = []
    for _ in range(3):
        # Of the processor: on a busy machine it takes longer until there is some.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spans.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spans) < 0.3
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    for text in ("Examples:", "Exit codes:", "longshore call", "LONGSHORE_SERVER", "serve"):
        assert text in done.stdout
    for command in ("call", "ls", "get", "watch", "wait", "cancel", "signal", "types", "generate"):
        shown = subprocess.run([*COMMAND, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert "Example" in shown, command


def test_help_does_not_import_grpc() -> None:
    code = "import sys; sys.argv = ['longshore', '--help']\nimport longshore_client.cli as c\n"
    code += "try: c.main()\nexcept SystemExit: print(sorted({'grpc', 'rich', 'google'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_generate_compiles_and_exports(tmp_path: Path) -> None:
    contract = Path(__file__).parents[2] / "examples" / "orders" / "protos"
    out, export = tmp_path / "out", tmp_path / "export"
    arguments = ["generate", str(contract), "--out", str(out), "--export", str(export)]
    done = subprocess.run([*longshore(), *arguments], capture_output=True, text=True, check=True)
    assert str(out / "acme/orders/v1/orders_longshore.py") in done.stdout.splitlines()
    hint = f"with {out} on the Python path: from acme.orders.v1.orders_longshore import OrdersClient\n"
    assert done.stderr == hint
    # What was exported is enough for any protoc.
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{export}", f"--python_out={tmp_path}"]
    subprocess.run([*protoc, "acme/orders/v1/orders.proto"], check=True)
    refused = subprocess.run(
        [*longshore(), "generate", "nope", "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "Path 'nope' does not exist; `longshore generate --help` shows how" in refused.stderr


def test_requests_parse_in_a_pool_of_their_own() -> None:
    """The same file in the default pool and in the command line's own does not clash."""
    from longshore_client.channel import connect
    from longshore_client.cli.reflection import Types

    types = Types(connect("localhost:1"))
    types._add_local(PlayRequest.DESCRIPTOR.file)
    assert types.parse({"key": "a"}, types.get("lab.v1.PlayRequest")).SerializeToString() == b"\n\x01a"
    with pytest.raises(ValueError, match="nope"):
        types.parse({"nope": 1}, types.get("lab.v1.PlayRequest"))
