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
service ThingsService {
  rpc Process(In) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "Res" metadata_type: "Prog" };
    option (longshore.v1.operation) = {};
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
from typing import assert_type
from dataclasses import dataclass
from typed.v1.things_longshore import ThingsService, ProcessOperation, SilentOperation
from typed.v1.things_pb2 import In, Prog, Res

@dataclass
class Services:
    number: int

class Things(ThingsService[Services]):
    async def process(self, request: In, op: ProcessOperation[Services]) -> Res:
        assert_type(op.services, Services)
        await op.progress(Prog(step="one"))
        return Res(status=request.id)

    async def silent(self, request: In, op: SilentOperation[Services]) -> None:
        assert_type(op.input, In)

Things()
"""

UNPARAMETRIZED = """
from __future__ import annotations
from typed.v1.things_longshore import ThingsService, ProcessOperation, SilentOperation
from typed.v1.things_pb2 import In, Prog, Res

class Things(ThingsService):
    async def process(self, request: In, op: ProcessOperation) -> Res:
        await op.progress(Prog(step=op.services.anything))
        return Res()

    async def silent(self, request: In, op: SilentOperation) -> None: ...
"""

CALLER = """
from __future__ import annotations
import asyncio
from typing import assert_type, assert_never
from longshore_client import (
    Accepted, AttemptFailed, Cancelled, Cancelling, Completed, Failed, Output, Progress, Reset, Snapshot, Started,
    connect
)
from longshore.v1.channels_pb2 import DiagnosticOutput
from typed.v1.things_longshore import ProcessEvent, ThingsClient
from typed.v1.things_pb2 import In, Prog, Res

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
        case Accepted() | Started() | Cancelling() | Reset():
            return str(event.sequence)
    assert_never(event)

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
