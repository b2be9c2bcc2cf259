"""What `longshore generate` writes for other languages, given to a compiler that has nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from longshore_client.codegen.compile import CompileError
from longshore_client.codegen.export import export_protos
from longshore_client.codegen.proto_text import write_proto

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / "tests" / "contracts" / "protos"
LONGSHORE = (sys.executable, "-m", "longshore_client.cli", "generate")

CONTRACT = """
syntax = "proto3";
package shop.v1;
import "buf/validate/validate.proto";
import "google/longrunning/operations.proto";
import "google/protobuf/empty.proto";
import "longshore/v1/annotations.proto";
message BuyRequest { string id = 1 [(buf.validate.field).string = { min_len: 1 pattern: "^[a-z]\\\\d$" }]; }
// Where things are bought.
service ShopService {
  // Buys.
  rpc Buy(BuyRequest) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {
      response_type: "google.protobuf.Empty" metadata_type: "google.protobuf.Empty"
    };
    option (longshore.v1.operation) = {};
  }
}
"""


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    path = tmp_path / "protos" / "shop" / "v1" / "shop.proto"
    path.parent.mkdir(parents=True)
    path.write_text(CONTRACT)
    return path


def compiled(tree: Path) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """What protoc makes of all files of a tree, in a folder with nothing else and no path but this."""
    names = [path.relative_to(tree).as_posix() for path in tree.rglob("*.proto")]
    done = subprocess.run(
        [sys.executable, "-I", "-m", "grpc_tools.protoc", "-I.", "--include_imports", "--descriptor_set_out=all",
         "--python_out=.", "--grpc_python_out=.", *names],
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = descriptor_pb2.FileDescriptorSet.FromString((tree / "all").read_bytes()).file
    return {file.name: file for file in files}


@pytest.mark.parametrize("protos", [CONTRACTS, *ROOT.glob("examples/*/protos")], ids=lambda path: path.parent.name)
def test_what_is_exported_compiles_alone_and_has_all_that_callers_need(protos: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    written = {path.as_posix() for path in export_protos([protos], tree)}
    assert written >= {path.relative_to(protos).as_posix() for path in protos.rglob("*.proto")}
    assert written >= {path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos").rglob("*.proto")}
    assert "google/rpc/error_details.proto" in written, "refusals carry them, though nothing imports them"
    assert not [name for name in written if name.startswith("google/protobuf/")], "each compiler has its own"
    assert compiled(tree).keys() >= written


def test_rules_of_an_installed_package_come_as_text_that_says_the_same(contract: Path, tmp_path: Path) -> None:
    import protovalidate

    original = type(protovalidate.Violation().proto).desc().file.proto.to_binary()
    export_protos([contract], tmp_path / "tree")
    files = compiled(tmp_path / "tree")
    assert files["buf/validate/validate.proto"] == descriptor_pb2.FileDescriptorProto.FromString(original)
    (rule,) = files["shop/v1/shop.proto"].message_type[0].field
    assert b"^[a-z]\\d$" in rule.options.SerializeToString()


def test_text_that_would_say_something_else_is_not_given_out(
    contract: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "longshore_client.codegen.export.write_proto",
        lambda *files: write_proto(*files).replace('reserved "disabled";', ""),
    )
    with pytest.raises(CompileError, match="cannot be written as text"):
        export_protos([contract], tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_an_import_that_nobody_has_is_named_and_nothing_is_written(contract: Path, tmp_path: Path) -> None:
    contract.write_text(CONTRACT.replace("google/protobuf/empty.proto", "nowhere/v1/x.proto"))
    with pytest.raises(CompileError, match=r"nowhere/v1/x\.proto"):
        export_protos([contract], tmp_path / "tree", descriptor_set=tmp_path / "set")
    assert not (tmp_path / "tree").exists()
    assert not (tmp_path / "set").exists()


def test_a_second_export_leaves_unchanged_files_alone(contract: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    export_protos([contract], tree)
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*.proto")}
    export_protos([contract], tree)
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*.proto")} == before


def test_what_compilers_bring_is_left_out_even_if_the_team_has_a_copy(contract: Path, tmp_path: Path) -> None:
    copy = tmp_path / "protos" / "google" / "protobuf" / "empty.proto"
    copy.parent.mkdir(parents=True)
    copy.write_text('syntax = "proto3";\npackage google.protobuf;\nmessage Empty {}\n')
    written = export_protos([tmp_path / "protos"], tmp_path / "tree")
    assert not [path for path in written if path.is_relative_to("google/protobuf")]
    assert compiled(tmp_path / "tree")


def test_one_file_holds_every_descriptor_before_it_is_needed_and_the_comments(contract: Path, tmp_path: Path) -> None:
    target = tmp_path / "build" / "contracts.binpb"
    said = subprocess.run(
        [*LONGSHORE, contract, "--descriptor-set", target], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [str(target)]
    assert {path.name for path in tmp_path.iterdir()} == {"protos", "build"}, "no tree was asked for"
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())  # raises where an import is missing or comes later
    for service in ("shop.v1.ShopService", "longshore.v1.OperationsService", "google.bytestream.ByteStream"):
        assert pool.FindServiceByName(service).methods
    (mine,) = (file for file in files if file.name == "shop/v1/shop.proto")
    comments = {location.leading_comments.strip() for location in mine.source_code_info.location}
    assert {"Where things are bought.", "Buys."} <= comments


def test_the_command_says_where_it_could_write(contract: Path, tmp_path: Path) -> None:
    done = subprocess.run([*LONGSHORE, contract], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--out DIR for Python, --export DIR or --descriptor-set FILE for other languages" in done.stderr
