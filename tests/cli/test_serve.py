"""`longshore serve` from outside: what it says when it cannot serve, and in which form it says anything."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from tests.server.auth.identities import Authority
from tests.warm import longshore

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "longshore_client.cli")
PRELUDE = """
import contextlib
import warnings
from lab.v1 import lab_longshore
from longshore_server import Job, Server, Task
from tests.conftest import LabHandlers
"""
MODULES = {
    "good": "server = Server(LabHandlers())\nnumber = 3",
    "incomplete": "class Lab(lab_longshore.LabService):\n    async def play(self, request, op):\n        pass\n"
    "server = Server(Lab())",
    "sync": "class Lab(LabHandlers):\n    def play(self, request, op):\n        pass\nserver = Server(Lab())",
    "plain": "server = Server(object())",
    "methodless": "class Order(Task[int, int]):\n    async def on_event(self, event, ctx):\n        pass\n"
    "server = Server()\nserver.task('order', Order)",
    "storing": "server = Server(stores={'a': 3})",
    "sinking": "server = Server(sinks={'a': int})",
    "anybody": "server = Server(authenticators=[3])",
    "unmade": "server = Server(LabHandlers)",
    "bare": "server = Server()",
    "jobs": "server = Server()\n@server.job('count')\nasync def count(payload: int, job: Job[int]) -> int:\n"
    "    return payload + 1\nasync def run(ctx): pass\n"
    "for name in ('report', 'daily'):\n    server.recurring(name, every='1h', state=int)(run)\n"
    "server.debounce('hooks', flush_after='1m', event=int)(run)",
    "cron": "server = Server()\n@server.recurring('report', cron='0 25 * * *', state=int)\nasync def report(ctx):\n"
    "    pass",
    "task": "server = Server()\nserver.task('order', int)",
    "queue_": "server = Server()\n@server.job('count', max_active='many')\n"
    "async def count(n: int, job: Job[int]) -> int:\n    return n",
    "worthless": "server = Server()\nserver.recurring('report', every='1h', state=int(''))",
    "importing": "import nothing_like_this",
    "renamed": "from good import nothing_like_this",
    "syntax": "def server(:",
    "indented": "import syntax",
    "broken": "def make():\n    raise RuntimeError('a mistake of the module\\nand more')\nserver = make()",
    "chained": "try:\n    int('')\nexcept ValueError as error:\n    raise RuntimeError('no number') from error",
    "quiet": "server = Server()\n@server.debounce('hooks', event=int)\nasync def hooks(ctx):\n    pass",
    "ungenerated": "@contextlib.asynccontextmanager\nasync def life(server):\n    pass\n"
    "server = Server(LabHandlers(), lifespan=life)",
    "undecorated": "async def life(server):\n    yield\nserver = Server(LabHandlers(), lifespan=life)",
    "blocking": "@contextlib.contextmanager\ndef life(server):\n    yield\n"
    "server = Server(LabHandlers(), lifespan=life)",
    "called": "@contextlib.asynccontextmanager\nasync def life(server):\n    yield\n"
    "server = Server(LabHandlers(), lifespan=life(None))",
    "bare_life": "@contextlib.asynccontextmanager\nasync def life():\n    yield\n"
    "server = Server(LabHandlers(), lifespan=life)",
    "dead": "server = Server(LabHandlers(), lifespan=lambda server: None)",
    "own_life": "import functools\n"
    "def own(function):\n    @functools.wraps(function)\n    def life(server):\n"
    "        @contextlib.asynccontextmanager\n"
    "        async def live(server):\n            yield await function(server)\n"
    "        return live(server)\n    return life\n"
    "@own\nasync def life(server):\n    raise RuntimeError('came to life')\n"
    "server = Server(LabHandlers(), lifespan=life)",
    "lifeless": "@contextlib.asynccontextmanager\nasync def life(server):\n    raise RuntimeError('no warehouse')\n"
    "    yield\nserver = Server(LabHandlers(), lifespan=life)",
    "spilling": "@contextlib.asynccontextmanager\nasync def life(server):\n    yield\n"
    "    raise RuntimeError('spilt')\nserver = Server(LabHandlers(), lifespan=life)",
    "leaving": "import argparse\nargparse.ArgumentParser().exit(3)",
    "leaving_life": "@contextlib.asynccontextmanager\nasync def life(server):\n    raise SystemExit\n"
    "    yield\nserver = Server(LabHandlers(), lifespan=life)",
    "leaving_late": "@contextlib.asynccontextmanager\nasync def life(server):\n    yield\n"
    "    raise SystemExit('enough')\nserver = Server(LabHandlers(), lifespan=life)",
    "leaving_amid": "import asyncio, signal\ndef leave():\n    raise SystemExit(3)\n@contextlib.asynccontextmanager\n"
    "async def life(server):\n    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, leave)\n"
    "    yield\nserver = Server(LabHandlers(), lifespan=life)",
    "failing": "async def fail(request, op):\n    warnings.warn('old')\n    raise RuntimeError('line one\\nline two')\n"
    "handlers = LabHandlers()\nhandlers.handler = fail\nserver = Server(handlers)",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that `serve` is run in, with all modules."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(f"{PRELUDE}\n{text}\n")
    (tmp_path / "c.toml").write_text('tokens = "nothing"')
    return tmp_path


def command(folder: Path, target: str, *flags: str) -> dict[str, Any]:
    """What to give to `subprocess` to serve `target` in `folder`."""
    arguments = [target, "--listen", f"unix:{folder}/s", "--metrics", "", "--data", "data", *flags]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "contracts")])
    return {
        "args": [*COMMAND, "serve", *arguments],
        "cwd": folder,
        "env": {**os.environ, "PYTHONPATH": path},
        "text": True,
    }


def serve(folder: Path, target: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Serve what cannot be served, to its end."""
    how = command(folder, target, *flags)
    how["args"][: len(COMMAND)] = longshore()
    return subprocess.run(**how, capture_output=True, timeout=60, check=False)


REFUSALS = {
    "no colon": ("good", "'good' is neither MODULE:NAME nor FILE.py:NAME"),
    "no module": ("nothing:server", "there is no module nothing in "),
    "a file as module": ("./good:server", " or on the Python path; did you mean ./good.py:server?"),
    "no file": ("nothing.py:server", "there is no file nothing.py"),
    "no import": ("importing:server", "importing.py:8: there is no module nothing_like_this: install it, or put the "),
    "no attribute": ("good:servant", "good: it has no servant, and a longshore_server.Server is needed; it has server"),
    "wrong type": (
        "good.py:number",
        "good.py: number is of type int, and a longshore_server.Server is needed; it has ",
    ),
    "no handler": ("incomplete:server", "incomplete.py:11: Can't instantiate abstract class Lab"),
    "no generator": ("ungenerated:server", "ungenerated.py:11: lifespan: write an `async def` with one `yield`"),
    "no decorator": ("undecorated:server", "undecorated.py:10: lifespan: write an `async def` with one `yield`"),
    "blocking": ("blocking:server", "blocking.py:11: lifespan: write an `async def` with one `yield`"),
    "lifespan called": ("called:server", "called.py:11: lifespan: pass the function itself, not <contextlib."),
    "without server": ("bare_life:server", "bare_life.py:11: lifespan: it must take one argument, the server"),
    "no lifespan": ("dead:server", "the lifespan gives None: write an `async def` with one `yield`, and "),
    "wrong handler": ("sync:server", "LabService.Play: Lab.play (sync.py:9) must be an `async def`"),
    "wrong cron": ("cron:server", "cron.py:9: report: cron: '0 25 * * *' is no cron expression"),
    "wrong task": ("task.py:server", "task.py:9: order: <class 'int'> is no class derived from Task"),
    "wrong queue": ("queue_.py:server", "queue_.py:9: job 'count' (queue_.count): max_active: "),
    "no service": ("plain:server", "plain.py:8: object has no contract"),
    "no method": ("methodless:server", "methodless.py:12: Can't instantiate abstract class Order"),
    "no store": ("storing:server", "storing.py:8: stores: 3 is no Store: give an instance of a class derived from it"),
    "no sink": ("sinking:server", "sinking.py:8: sinks: <class 'int'> is no EventSink: give an instance of a class"),
    "anybody": ("anybody:server", "anybody.py:8: authenticators: 3 is no Authenticator: give an instance of a class"),
    "a class": ("unmade:server", "unmade.py:8: LabHandlers is a class: pass an instance, LabHandlers()"),
    "an exit": ("leaving:server", "leaving.py:9: SystemExit: 3: here the service ends the whole process: raise an "),
    "an exit of life": ("leaving_life:server", "leaving_life.py:10: SystemExit: here the service ends the whole "),
    "nothing": ("bare:server", "the server has nothing to run: pass it a service whose contract declares"),
    "wrong setting": ("good:server --drain -1", "drain: -1.0 is not between 0 and "),
    "file as data": ("good:server --data good.py", "data: good.py cannot be used: File exists; give the server a "),
    "below a file": ("good:server --data good.py/x", "data: good.py/x cannot be used: Not a directory; give the "),
    "not writable": ("good:server --data /proc", "data: /proc cannot be used: "),
    "not makeable": ("good:server --data /proc/x", "data: /proc/x cannot be used: "),
    "no tokens": ("good:server --tokens nothing", "--tokens: nothing: No such file or directory"),
    "tokens of a file": ("good:server --config c.toml", "c.toml: tokens: nothing: No such file or directory"),
    "open to all": ("good:server --listen 0.0.0.0:0", "listen: 0.0.0.0:0 can be reached from other machines"),
}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_served_is_one_sentence(folder: Path, case: str, form: str) -> None:
    target, sentence = REFUSALS[case]
    done = serve(folder, *target.split(), "--log-format", form)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    if form == "json":
        entry = json.loads(line)
        assert entry["level"] == "critical"
        assert sentence in entry["message"]
        assert "trace" not in entry
    else:
        assert line.startswith("error: ")
        assert sentence in line


MISTAKES = {
    "broken": (["broken.py:10", "broken.py:9"], "broken.py:9: RuntimeError: a mistake of the module"),
    "chained": (["chained.py:9", "chained.py:11"], "chained.py:11: RuntimeError: no number"),
    "renamed": (["renamed.py:8"], "renamed.py:8: ImportError: cannot import name 'nothing_like_this' from 'good'"),
    "syntax": (["syntax.py:8"], "syntax.py:8: SyntaxError: invalid syntax"),
    "indented": (["indented.py:8", "syntax.py:8"], "syntax.py:8: SyntaxError: invalid syntax"),
    "worthless": (["worthless.py:9"], "worthless.py:9: ValueError: invalid literal for int() with base 10: ''"),
    "quiet": (["quiet.py:9"], "missing 1 required keyword-only argument: 'flush_after'"),
    "lifeless": (["lifeless.py:10"], "lifeless.py:10: RuntimeError: no warehouse"),
    "own_life": (["own_life.py:14", "own_life.py:19"], "own_life.py:19: RuntimeError: came to life"),
}


@pytest.mark.parametrize("module", MISTAKES)
def test_a_mistake_of_the_service_is_one_sentence_after_a_trace_of_its_own(folder: Path, module: str) -> None:
    places, sentence = MISTAKES[module]
    done = serve(folder, f"{module}:server")
    assert (done.returncode, done.stdout) == (2, "")
    *trace, line = done.stderr.splitlines()
    assert line.startswith(f"error: {places[-1]}: ")
    assert sentence in line
    # Nothing of ours, nor of what imports modules and runs event loops.
    assert [
        f"{Path(file).name}:{number}" for file, number in re.findall(r'File "(.+)", line (\d+)', "\n".join(trace))
    ] == places
    assert "Error: no number" not in "\n".join(trace)


@pytest.mark.parametrize("module", MISTAKES)
def test_a_mistake_of_the_service_is_one_line_for_machines(folder: Path, module: str) -> None:
    places, sentence = MISTAKES[module]
    done = serve(folder, f"{module}:server", "--log-format", "json")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    entry = json.loads(line)
    assert entry["level"] == "critical"
    assert sentence in entry["message"]
    assert f'{places[-1].partition(":")[0]}", line' in entry["trace"]


def talk(process: subprocess.Popen[str], folder: Path) -> Iterator[str]:
    """Every line of a server that runs one operation and is stopped; nothing of it is on stdout."""
    assert process.stderr is not None
    assert process.stdout is not None
    banner = process.stderr.readline()
    assert "  serving lab.v1.LabService (" in banner
    yield banner
    with grpc.insecure_channel(f"unix:{folder}/s") as channel:
        operations: Any = operations_service_pb2_grpc.OperationsServiceStub(channel)
        started = operations.Start(pb.StartRequest(type="lab.v1.LabService/Play", wait=Duration(seconds=30)))
        assert started.operation.error.message
    process.send_signal(signal.SIGTERM)
    yield from process.stderr
    assert process.stdout.read() == ""


def test_every_line_for_machines_is_json(folder: Path) -> None:
    """The banner, a failure with its trace, a warning of Python's, the stop."""
    said: list[dict[str, Any]] = []
    # The environment counts like the flag.
    for flags, variables in ((("--log-format", "json"), {}), ((), {"LONGSHORE_LOG_FORMAT": "json"})):
        how = command(folder, "failing:server", *flags)
        how["env"].update(variables)
        with subprocess.Popen(**how, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                said.extend(json.loads(line) for line in talk(process, folder))
                assert process.wait() == 0
            finally:
                process.kill()
    messages = [line["message"] for line in said]
    assert any("stopping" in message for message in messages)
    assert any("UserWarning: old" in message for message in messages)
    [failure, _] = [line for line in said if line["level"] == "error"]
    assert failure["operation"].startswith("operations/")
    assert failure["trace"].endswith("RuntimeError: line one\nline two")


def test_a_server_without_contracts_runs_what_its_code_declares(folder: Path) -> None:
    with subprocess.Popen(**command(folder, "jobs:server"), stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert "  serving no operations  on unix:" in process.stderr.readline()
            assert process.stderr.readline() == "  jobs count   recurring daily, report   debounce hooks\n"
            with grpc.insecure_channel(f"unix:{folder}/s") as channel:
                operations: Any = operations_service_pb2_grpc.OperationsServiceStub(channel)
                assert not operations.ListTypes(pb.ListTypesRequest()).types
                with pytest.raises(grpc.RpcError, match="is not served here; this server has no operations"):
                    operations.Start(pb.StartRequest(type="lab.v1.LabService/Play"))
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("spilling", "spilling.py:11: RuntimeError: spilt"),
        ("leaving_late", "leaving_late.py:11: SystemExit: enough: here the service ends the whole process: raise "),
        ("leaving_amid", "leaving_amid.py:10: SystemExit: 3: here the service ends the whole process: raise an error "),
    ],
)
def test_a_service_that_does_not_end_well_is_told_and_counts(folder: Path, module: str, sentence: str) -> None:
    with subprocess.Popen(**command(folder, f"{module}:server"), stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert "  serving " in process.stderr.readline()
            process.send_signal(signal.SIGUSR1 if module == "leaving_amid" else signal.SIGTERM)
            assert process.stderr.read().splitlines()[-1].startswith(f"error: {sentence}")
            assert process.wait() == 1
        finally:
            process.kill()


def test_who_does_not_speak_tls_leaves_no_line(folder: Path) -> None:
    pem = Authority(folder / "pki").server()
    how = command(
        folder, "good:server", "--listen", "127.0.0.1:0", "--tls-cert", str(pem.certificate), "--tls-key", str(pem.key)
    )
    how["env"].pop("GRPC_VERBOSITY", None)
    with subprocess.Popen(**how, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", banner := process.stderr.readline())
            assert found is not None, banner
            with socket.create_connection(("127.0.0.1", int(found[1]))) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                connection.recv(1)  # until it is hung up on
            process.send_signal(signal.SIGTERM)
            assert process.stderr.read() == "  stopping\n"
        finally:
            process.kill()
