"""What the type checker says about code that uses a generated module: nothing if it is right, else what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore_client.codegen.compile import compile_protos

CONTRACT = """
syntax = "proto3";
package typed.v1;
import "google/longrunning/operations.proto";
import "google/protobuf/empty.proto";
import "longshore/v1/annotations.proto";
message In { string id = 1; }
message Prog { string step = 1; }
message Res { string status = 1; }
message Yes { string by = 1; }
message No { string why = 1; }
service ThingsService {
  rpc Process(In) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "Res" metadata_type: "Prog" };
    option (longshore.v1.operation) = {};
  }
  rpc Ask(In) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "Res" metadata_type: "Prog" };
    option (longshore.v1.operation) = {
      control: {}
      signals: { name: "yes" payload_type: "Yes" }
      signals: { name: "no" payload_type: "No" }
      signals: { name: "poke" payload_type: "google.protobuf.Empty" }
    };
  }
  rpc Once(In) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "Res" metadata_type: "Prog" };
    option (longshore.v1.operation) = { control: {} signals: { name: "yes" payload_type: "Yes" } };
  }
  rpc Silent(In) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {
      response_type: "google.protobuf.Empty" metadata_type: "google.protobuf.Empty"
    };
    option (longshore.v1.operation) = { output_type: "google.protobuf.Empty" };
  }
}
"""

SERVICE = """
from __future__ import annotations
import asyncio
from typing import assert_type
from dataclasses import dataclass
from typing import Any
from longshore_server import Job, Operation, Server, Signal, StepRetry
from typed.v1.things_longshore import (
    AskOperation, AskSignal, OnceOperation, ProcessOperation, SilentOperation, ThingsService
)
from typed.v1.things_pb2 import In, No, Prog, Res, Yes

@dataclass
class Services:
    number: int

async def find(city: str, stars: int) -> bytes:
    return b""

async def tidy(payload: str, job: Job[str, Services]) -> str:
    assert_type(job.services, Services)
    return payload

queue = Server().job("tidy")(tidy)

class Things(ThingsService[Services]):
    async def process(self, request: In, op: ProcessOperation[Services]) -> Res:
        assert_type(op.services, Services)
        retry = StepRetry(3, backoff="linear")
        assert_type(await op.step("find", find, "Oslo", 3, retry=retry, timeout=5), bytes)
        both = await asyncio.gather(op.step("count", len, "Oslo"), op.step("find-2", find, "Rome", 1))
        assert_type(both, tuple[int, bytes])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(op.step("find-3", find, "Bath", 2))
        await op.progress(Prog(step="one"))
        return Res(status=request.id)

    async def ask(self, request: In, op: AskOperation[Services]) -> Res:
        assert_type(await op.next_signal("yes", timeout=3600), Signal[Yes])
        assert_type((await op.next_signal("no")).payload, No)
        async for signal in op.signals("yes", "no"):
            assert_type(signal, Signal[AskSignal])
            if isinstance(signal.payload, Yes):
                break
        await report(op)
        return Res()

    async def once(self, request: In, op: OnceOperation[Services]) -> Res:
        return Res(status=(await op.next_signal("yes")).payload.by)

    async def silent(self, request: In, op: SilentOperation[Services]) -> None:
        assert_type(op.input, In)

async def report(op: Operation[Any, Prog, Any, Any]) -> None:
    await op.progress(Prog(step="one"))

Things()
"""

UNPARAMETRIZED = """
from __future__ import annotations
from typed.v1.things_longshore import (
    AskOperation, OnceOperation, ProcessOperation, SilentOperation, ThingsService
)
from typed.v1.things_pb2 import In, Prog, Res

class Things(ThingsService):
    async def process(self, request: In, op: ProcessOperation) -> Res:
        await op.progress(Prog(step=op.services.anything))
        return Res()

    async def ask(self, request: In, op: AskOperation) -> Res:
        return Res(status=(await op.next_signal("yes")).payload.by)

    async def once(self, request: In, op: OnceOperation) -> Res:
        return Res(status=(await op.next_signal("yes")).payload.by)

    async def silent(self, request: In, op: SilentOperation) -> None: ...
"""

CALLER = """
from __future__ import annotations
import asyncio
from typing import assert_type, assert_never
from longshore_client import (
    Accepted, AttemptFailed, Cancelled, Cancelling, Completed, Failed, Offered, Output, Progress, Reset, Signalled,
    Snapshot, Started, Stopping, Transfer, connect
)
from longshore.v1.channels_pb2 import DiagnosticOutput
from google.protobuf.empty_pb2 import Empty
from typed.v1.things_longshore import AskEvent, AskHandle, ProcessEvent, ThingsClient
from typed.v1.things_pb2 import In, No, Prog, Res, Yes

def show(event: ProcessEvent) -> str:
    match event:
        case Progress(value):
            assert_type(value, Prog)
            return value.step
        case Output(line):
            assert_type(line, DiagnosticOutput)
            return line.message
        case Completed(result):
            assert_type(result, Res)
            return result.status
        case Failed(error) | AttemptFailed(error):
            return error.reason
        case Cancelled(stopped):
            return stopped.reason
        case Transfer(upload):
            return upload.name
        case Offered(download):
            return download.name
        case Accepted() | Started() | Stopping() | Cancelling() | Signalled() | Reset():
            return str(event.sequence)
    assert_never(event)

def asked(event: AskEvent) -> None:
    if isinstance(event, Signalled):
        assert_type(event.payload, Yes | No | Empty)

async def answer(handle: AskHandle) -> None:
    await handle.signal("yes", Yes(by="ada"))
    await handle.signal("no", No(), signal_id="once")
    await handle.signal("poke")
    async for event in handle.watch():
        asked(event)

async def on_progress(value: Prog) -> None: ...

async def main() -> None:
    async with connect("localhost:1") as channel:
        things = ThingsClient(channel)
        op = await things.process(In(id="x"), request_id="k")
        async for event in op.watch():
            show(event)
        assert_type(await op.wait(timeout=3), Res)
        assert_type(await op.get(), Snapshot[Prog, Res])
        abort = asyncio.Event()
        assert_type(await things.process.run(In(), on_progress=on_progress, on_output=print, abort=abort), Res)
        assert_type(await things.process.attach("operations/x").wait(), Res)
        await things.silent.run(In())
        await answer(await things.ask(In()))
        await answer(things.ask.attach("operations/x"))
        await (await things.once(In())).signal("yes", Yes())
"""


MYPY = (sys.executable, "-m", "mypy")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    proto = folder / "protos" / "typed" / "v1" / "things.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text(CONTRACT)
    compile_protos([proto], folder / "out")
    return folder / "out"


def mypy(generated: Path, folder: Path, code: str) -> tuple[int, str]:
    """Check code as a user's project would, with our packages installed and the contract's modules on the path."""
    (folder / "user.py").write_text(code)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            f"--cache-dir={generated.parent / 'cache'}",
            "user.py",
        ],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(generated)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("code", [SERVICE, UNPARAMETRIZED, CALLER], ids=["service", "unparametrized", "caller"])
def test_right_code_passes_strict(generated: Path, tmp_path: Path, code: str) -> None:
    status, output = mypy(generated, tmp_path, code)
    assert status == 0, output


def replaced(code: str, old: str, new: str) -> str:
    assert old in code
    return code.replace(old, new)


def test_a_wrong_progress_type_is_an_error(generated: Path, tmp_path: Path) -> None:
    status, output = mypy(generated, tmp_path, replaced(SERVICE, 'op.progress(Prog(step="one"))', "op.progress(Res())"))
    assert status == 1
    assert 'has incompatible type "Res"; expected "Prog"' in output


def test_a_missing_handler_is_an_error(generated: Path, tmp_path: Path) -> None:
    status, output = mypy(generated, tmp_path, replaced(SERVICE, "async def silent", "async def other"))
    assert status == 1
    assert 'Cannot instantiate abstract class "Things" with abstract attribute "silent"' in output


def test_a_wrong_result_type_is_an_error(generated: Path, tmp_path: Path) -> None:
    status, output = mypy(generated, tmp_path, replaced(SERVICE, "return Res(status=request.id)", "return Prog()"))
    assert status == 1
    assert 'Incompatible return value type (got "Prog", expected "Res")' in output
    status, output = mypy(generated, tmp_path, replaced(SERVICE, "-> Res:", "-> Prog:"))
    assert status == 1
    assert "incompatible with" in output


def test_emitting_on_an_empty_channel_is_an_error(generated: Path, tmp_path: Path) -> None:
    code = replaced(SERVICE, "assert_type(op.input, In)", "await op.progress(Prog())")
    status, output = mypy(generated, tmp_path, code)
    assert status == 1
    assert 'has incompatible type "Prog"; expected "Never"' in output


def test_a_caller_with_a_wrong_input_or_callback_is_an_error(generated: Path, tmp_path: Path) -> None:
    status, output = mypy(generated, tmp_path, replaced(CALLER, 'In(id="x")', "Res()"))
    assert status == 1
    assert 'has incompatible type "Res"; expected "In"' in output
    status, output = mypy(generated, tmp_path, replaced(CALLER, "on_progress(value: Prog)", "on_progress(value: Res)"))
    assert status == 1
    assert "on_progress" in output


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            'signal("yes", Yes(by="ada"))',
            'signal("yes", No())',
            'No overload variant of "signal" of "AskHandle" matches',
        ),
        ('signal("yes", Yes(by="ada"))', 'signal("maybe", Yes())', 'No overload variant of "signal" of "AskHandle"'),
        ('signal("yes", Yes(by="ada"))', 'signal("yes")', 'No overload variant of "signal" of "AskHandle" matches'),
        ('.signal("yes", Yes())', '.signal("yes", No())', 'has incompatible type "No"; expected "Yes"'),
        (
            'things.once(In())).signal("yes", Yes())',
            'things.process(In())).signal("yes", Yes())',
            'expected "None"',
        ),
    ],
)
def test_a_caller_with_a_wrong_signal_is_an_error(
    generated: Path, tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    status, output = mypy(generated, tmp_path, replaced(CALLER, right, wrong))
    assert status == 1
    assert said in output


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('next_signal("no")).payload, No', 'next_signal("no")).payload, Yes', 'Expression is of type "No", not "Yes"'),
        ('next_signal("no")', 'next_signal("maybe")', "No overload variant of"),
        ('op.signals("yes", "no")', 'op.signals("yes", "perhaps")', "incompatible type \"Literal['perhaps']\""),
        ('(status=(await op.next_signal("yes"))', '(status=(await op.next_signal("no"))',
         "incompatible type \"Literal['no']\""),
        ('find, "Oslo", 3, retry', 'find, "Oslo", "3", retry', 'Argument 2 to "step"'),
        ('retry=retry', 'retry=3', 'No overload variant of "step"'),
        ('backoff="linear"', 'backoff="random"', 'incompatible type "Literal[\'random\']"'),
    ],
)  # fmt: skip
def test_a_handler_with_a_wrong_signal_or_step_is_an_error(
    generated: Path, tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    status, output = mypy(generated, tmp_path, replaced(SERVICE, right, wrong))
    assert status == 1
    assert said in output
