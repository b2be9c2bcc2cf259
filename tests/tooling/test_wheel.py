"""The wheel as a stranger gets it: made from the source distribution, installed with its base dependencies only."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.tooling.conftest import run

ROOT = Path(__file__).resolve().parents[2]

CONTRACT = """
syntax = "proto3";
package stranger.v1;
import "google/protobuf/any.proto";
import "longshore/v1/annotations.proto";
message Request {}
service StrangerService {
  rpc Do(Request) returns (google.protobuf.Any) { option (longshore.v1.operation) = { max_crashes: 1 }; }
}
"""


def test_wheel_holds_the_three_packages_and_the_protos(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"google", "longshore", "longshore_client", "longshore_server"}
    # Everybody's: what makes it a package of one distribution would hide those of all others.
    assert {name for name in names if name.startswith("google/") and not name.startswith("google/bytestream/")} == set()
    assert "google/bytestream/__init__.py" not in names
    assert {f"{top}/py.typed" for top in tops - {"google"} | {"google/bytestream"}} <= names
    for proto in (ROOT / "protos").rglob("*.proto"):
        assert proto.relative_to(ROOT / "protos").as_posix() in names


def test_wheel_holds_everything_that_the_server_reads_at_run_time(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for sql in (ROOT / "server").rglob("*.sql"):
        assert sql.relative_to(ROOT / "server").as_posix() in names


def test_base_install_imports_client_and_stubs_without_a_warning(clean: Path) -> None:
    code = (
        "from longshore_client import *; import longshore_client\n"
        "from longshore.v1 import operations_service_pb2, operations_service_pb2_grpc\n"
        "from google.bytestream import bytestream_pb2, bytestream_pb2_grpc\n"
        "from google.longrunning import operations_pb2\n"
        "print(longshore_client.__file__)"
    )
    where = run(clean, "-I", "-W", "error", "-c", code, cwd=clean.parent)
    assert str(ROOT) not in where


def test_base_install_is_a_callers(clean: Path) -> None:
    freeze = (sys.executable, "-m", "pip", "--python", clean, "freeze")
    installed = {line.split("==")[0].lower() for line in run(*freeze, cwd=clean.parent).split()}
    assert not installed & {"aiosqlite", "click", "rich", "protovalidate", "grpcio-tools"}


def test_base_install_says_what_the_command_line_needs(clean: Path) -> None:
    command = clean.with_name("longshore")
    refused = subprocess.run([command, "ls"], cwd=clean.parent, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert 'pip install "longshore-grpc[cli]"' in refused.stderr
    assert "Traceback" not in refused.stderr


def test_contracts_compile_against_the_protos_of_the_installed_wheel(clean: Path, tmp_path: Path) -> None:
    site = run(clean, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    (tmp_path / "stranger.proto").write_text(CONTRACT)
    protoc = (sys.executable, "-m", "grpc_tools.protoc")
    run(*protoc, "-I.", f"-I{site}", "--python_out=.", "stranger.proto", cwd=tmp_path)
    code = "import stranger_pb2; print(stranger_pb2.DESCRIPTOR.services_by_name['StrangerService'].full_name)"
    assert run(clean, "-W", "error", "-c", code, cwd=tmp_path).strip() == "stranger.v1.StrangerService"


def test_types_reach_a_strangers_type_checker(clean: Path, tmp_path: Path) -> None:
    # Without the stubs of protobuf among the dependencies every message would be Any, and both lines would pass.
    (tmp_path / "stranger.py").write_text(
        "from longshore.v1.operation_pb2 import OperationSnapshot\n"
        "name: str = OperationSnapshot().name\n"
        "wrong: int = OperationSnapshot()\n"
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--python-executable", clean, "stranger.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in checked.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, checked.stdout
    assert errors[0].startswith("stranger.py:3: error: Incompatible types in assignment")
