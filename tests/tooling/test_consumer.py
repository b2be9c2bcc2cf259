"""A project that calls a service, as strict type checkers see it with nothing but the wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from longshore_client.codegen.compile import compile_protos

CONTRACT = """
syntax = "proto3";
package shop.v1;
import "google/longrunning/operations.proto";
import "google/protobuf/empty.proto";
import "longshore/v1/annotations.proto";
message In { string key = 1; }
message Step { string name = 1; }
message Out { string status = 1; }
message Yes { string by = 1; }
service ShopService {
  rpc Buy(In) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "Out" metadata_type: "Step" };
    option (longshore.v1.operation) = {
      control: {}
      signals: { name: "yes" payload_type: "Yes" }
      signals: { name: "poke" payload_type: "google.protobuf.Empty" }
    };
  }
  rpc Send(In) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "Out" metadata_type: "Step" };
    option (longshore.v1.operation) = {
      transfer: { direction: TRANSFER_DIRECTION_SEND store: "s" key_path: "key" }
    };
  }
}
"""
BLOCKING = """
from pathlib import Path
from typing import assert_type
from longshore_client import DownloadGrant, Progress, SendProgress, SentSignal, Snapshot, tls
from longshore_client.blocking import Channel, connect
from shop.v1.shop_longshore import BuyBlockingHandle, ShopBlockingClient
from shop.v1.shop_pb2 import In, Out, Step, Yes

def show(step: Step) -> None: ...
def bar(sent: SendProgress) -> None: ...

with connect("localhost:1", token="t", credentials=tls()) as channel:
    assert_type(channel, Channel)
    shop = ShopBlockingClient(channel)
    operation = shop.buy(In(), request_id="r")
    assert_type(operation, BuyBlockingHandle)
    assert_type(shop.buy.attach("operations/x"), BuyBlockingHandle)
    assert_type(operation.retry(), BuyBlockingHandle)
    for event in operation.watch():
        if isinstance(event, Progress):
            assert_type(event.value, Step)
    assert_type(operation.get(), Snapshot[Step, Out])
    assert_type(operation.signal("yes", Yes()), SentSignal)
    assert_type(operation.signal("poke"), SentSignal)
    assert_type(operation.wait(timeout=1), Out)
    assert_type(shop.buy.run(In(), on_progress=show), Out)
    upload = shop.send(In()).transfer(Path("x")).on_transfer(bar).on_progress(show).start()
    assert_type(upload.wait(), Out)
    assert_type(upload.operation.download(Path("y")), DownloadGrant)
"""
ASYNCIO = """
from typing import assert_type
from longshore_client import Progress, connect
from shop.v1.shop_longshore import BuyHandle, ShopClient
from shop.v1.shop_pb2 import In, Out, Step, Yes

async def main() -> None:
    async with connect("localhost:1") as channel:
        shop = ShopClient(channel)
        operation = await shop.buy(In())
        assert_type(operation, BuyHandle)
        async for event in operation.watch():
            if isinstance(event, Progress):
                assert_type(event.value, Step)
        await operation.signal("yes", Yes())
        assert_type(await operation.wait(), Out)
"""
MISTAKES = {
    "shop.buy(Out())": 'has incompatible type "Out"; expected "In"',
    "operation.signal('no')": "No overload variant",
    "operation.signal('yes', Out())": "No overload variant",
    "number: int = operation.wait()": 'expression has type "Out", variable has type "int"',
    "shop.buy.run(In(), on_progress=bar)": 'expected "Callable[[Step], object] | None"',
    "shop.send(In()).wait()": 'has no attribute "wait"',
    "connect(timeout=1)": 'Unexpected keyword argument "timeout"',
}


@pytest.fixture
def consumer(tmp_path: Path) -> Path:
    """A folder with the modules of a contract."""
    (tmp_path / "shop.proto").write_text(CONTRACT)
    protos = tmp_path / "protos" / "shop" / "v1"
    protos.mkdir(parents=True)
    (tmp_path / "shop.proto").rename(protos / "shop.proto")
    compile_protos([protos], tmp_path)
    return tmp_path


def checked(consumer: Path, clean: Path, **modules: str) -> list[str]:
    """The errors that mypy finds in modules of a project whose environment has the wheel alone."""
    for name, text in modules.items():
        (consumer / f"{name}.py").write_text(text)
    (consumer / "mypy.ini").write_text(
        "[mypy]\nstrict = true\n[mypy-google.longrunning.*]\nignore_missing_imports = true"
    )
    files = [f"{name}.py" for name in modules]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "--python-executable", clean, *files],
        cwd=consumer, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def test_callers_of_both_kinds_are_typed_end_to_end(consumer: Path, clean: Path) -> None:
    assert checked(consumer, clean, sync=BLOCKING, asynchronous=ASYNCIO) == []


def test_mistakes_of_callers_that_block_are_found(consumer: Path, clean: Path) -> None:
    errors = checked(consumer, clean, sync=BLOCKING + "".join(f"    {line}\n" for line in MISTAKES))
    first = BLOCKING.count("\n") + 1
    found = {int(error.split(":")[1]) - first: error for error in errors}
    for number, expected in enumerate(MISTAKES.values()):
        assert expected in found.pop(number), expected
    assert not found
