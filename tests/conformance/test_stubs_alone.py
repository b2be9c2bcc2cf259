"""A caller with nothing of ours: stubs that protoc makes from the user's proto alone, in a process of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import google.longrunning
import pytest

from tests.conftest import Lab

pytest.importorskip("grpc_tools")

ROOT = Path(__file__).parents[2]

CONTRACT = """
syntax = "proto3";
package lab.v1;
import "google/longrunning/operations.proto";
service LabService {
  rpc Play(PlayRequest) returns (google.longrunning.Operation);
  rpc PlayAndWatch(PlayRequest) returns (stream google.longrunning.Operation);
}
message PlayRequest { string key = 1; string script = 2; int64 count = 3; }
message PlayProgress { int64 number = 1; string text = 2; }
message PlayResult { string text = 1; int64 number = 2; }
"""

CLIENT = """
import sys
import grpc
import lab_pb2, lab_pb2_grpc
from longshore.v1 import operations_service_pb2 as pb, operations_service_pb2_grpc as ops

with grpc.insecure_channel(sys.argv[1]) as channel:
    started = lab_pb2_grpc.LabServiceStub(channel).Play(lab_pb2.PlayRequest(script="three"))
    watching = ops.OperationsServiceStub(channel)
    seen, numbers = [], []
    stream = watching.Watch(pb.WatchRequest(name=started.name, after_sequence=0))
    for message in stream:
        seen.append(message.event.sequence)
        if message.event.WhichOneof("event") == "progress":
            progress = lab_pb2.PlayProgress()
            assert message.event.progress.value.Unpack(progress)
            numbers.append(progress.number)
            if len(numbers) == 1:
                stream.cancel()
                break
    result = lab_pb2.PlayResult()
    for message in watching.Watch(pb.WatchRequest(name=started.name, after_sequence=seen[-1])):
        seen.append(message.event.sequence)
        if message.event.HasField("progress"):
            progress = lab_pb2.PlayProgress()
            message.event.progress.value.Unpack(progress)
            numbers.append(progress.number)
        if message.event.HasField("completed"):
            assert message.event.completed.result.Unpack(result)
    assert seen == list(range(1, len(seen) + 1)), seen
    assert numbers == [1, 2, 3], numbers
    last = [operation for operation in lab_pb2_grpc.LabServiceStub(channel).PlayAndWatch(lab_pb2.PlayRequest())][-1]
    assert last.done and last.response.Is(lab_pb2.PlayResult.DESCRIPTOR)
ours = [name for name in sys.modules if name.startswith(("longshore_client", "longshore_server"))]
assert not ours, ours
assert not any(name.endswith("_longshore") for name in sys.modules)
print(result.text)
"""


def make_stubs(directory: Path) -> None:
    """What a user does: protoc, the contract, our protos and those of Google."""
    protos = directory / "protos"
    shutil.copytree(ROOT / "protos/longshore", protos / "longshore")
    (protos / "lab.proto").write_text(CONTRACT)
    installed = Path(next(iter(google.longrunning.__path__))).parent.parent
    (protos / "google/longrunning").mkdir(parents=True)
    source = installed / "google/longrunning/operations_proto.proto"
    shutil.copy(source, protos / "google/longrunning/operations.proto")
    ours = ["annotations", "channels", "operation", "operations_service"]
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{installed}", f"--python_out={directory}",
        f"--grpc_python_out={directory}", "lab.proto", *(f"longshore/v1/{name}.proto" for name in ours),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def test_a_client_of_stubs_alone_starts_watches_and_resumes(lab: Lab, tmp_path: Path) -> None:
    import lab.v1.lab_pb2 as mine

    @lab.plays
    async def handler(request, op):
        for number in (1, 2, 3) if request.script == "three" else ():
            await op.progress(mine.PlayProgress(number=number))
        return mine.PlayResult(text="well done")

    make_stubs(tmp_path)
    (tmp_path / "client.py").write_text(CLIENT)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        f"sys.argv = ['client', {lab.harness.address!r}]; exec(open({str(tmp_path / 'client.py')!r}).read())",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode().strip() == "well done"
