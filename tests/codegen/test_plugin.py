"""The protoc plugin: what it writes for a contract, and what it refuses."""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_client import connect
from longshore_client.codegen.compile import CompileError, compile_protos
from longshore_client.codegen.model import SIGNAL_NAME
from longshore_client.codegen.names import client_name, output_path, snake_case
from longshore_client.codegen.plugin import respond
from longshore_server import Server
from longshore_server.contract import signals
from longshore_server.testing import Harness

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

HEADER = """
syntax = "proto3";
package {package};
import "google/longrunning/operations.proto";
import "google/protobuf/empty.proto";
import "longshore/v1/annotations.proto";
message In {{ string id = 1; message Nested {{ string x = 1; }} }}
message Prog {{ string step = 1; }}
message Res {{ string id = 1; }}
"""


def operation(name: str, *, options: str = "", info: str = 'response_type: "Res" metadata_type: "Prog"') -> str:
    return f"""
  rpc {name}(In) returns (google.longrunning.Operation) {{
    option (google.longrunning.operation_info) = {{ {info} }};
    option (longshore.v1.operation) = {{ {options} }};
  }}"""


def signal(name: str) -> str:
    return f'signals {{ name: {json.dumps(name)} payload_type: "In" }} '


def write_contract(folder: Path, package: str, body: str) -> Path:
    path = folder / "protos" / package.replace(".", "/") / "things.proto"
    path.parent.mkdir(parents=True)
    path.write_text(HEADER.format(package=package) + body)
    return path


def compile_module(folder: Path, package: str, body: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    out = folder / "out"
    compile_protos([write_contract(folder, package, body)], out)
    monkeypatch.syspath_prepend(str(out))
    importlib.invalidate_caches()
    return importlib.import_module(f"{package}.things_longshore")


@pytest.mark.parametrize(
    ("name", "python"),
    [
        ("Process", "process"),
        ("ProcessOrder", "process_order"),
        ("GetURL", "get_url"),
        ("URLShorten", "url_shorten"),
        ("ImportV2", "import_v2"),
        ("Import", "import_"),
        ("Match", "match"),
    ],
)
def test_method_names_are_snake_case_and_never_keywords(name: str, python: str) -> None:
    assert snake_case(name) == python


def test_names_of_clients_and_files() -> None:
    assert client_name("OrdersService") == "OrdersClient"
    assert client_name("Orders") == "OrdersClient"
    assert client_name("Service") == "ServiceClient"
    assert output_path("a-b/v1/my-orders.proto") == "a_b/v1/my_orders_longshore.py"


def test_module_has_base_class_client_and_aliases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = compile_module(
        tmp_path,
        "cg.first.v1",
        f'// Does \\\\ """ things.\nservice ThingsService {{{operation("Import")}}}',
        monkeypatch,
    )
    messages = importlib.import_module("cg.first.v1.things_pb2")
    assert module.ThingsService.DESCRIPTOR is messages.DESCRIPTOR.services_by_name["ThingsService"]
    assert module.ThingsService.OPERATIONS == {"Import": "import_"}
    assert module.ThingsService.__abstractmethods__ == {"import_"}
    assert (module.ImportInput, module.ImportProgress, module.ImportResult) == (
        messages.In,
        messages.Prog,
        messages.Res,
    )
    assert module.ImportOutput.DESCRIPTOR.full_name == "longshore.v1.DiagnosticOutput"
    assert module.ImportOperation[int] is not None, "an alias made at run time must be subscriptable"
    assert '"""' in module.ThingsService.__doc__


async def test_the_catalog_shows_the_comment_of_a_method_and_makes_none_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"service ThingsService {{\n// Says what it does.{operation('Told')}{operation('Untold')}}}"
    module = compile_module(tmp_path, "cg.told.v1", body, monkeypatch)

    class Things(module.ThingsService):  # type: ignore[name-defined, misc]  # made a moment ago
        async def told(self, request, op, /): ...
        async def untold(self, request, op, /): ...

    async with Harness(Server(Things()), tmp_path / "data").serve() as harness, connect(harness.address) as channel:
        catalog = await channel.invoke(channel.calls.list_types, pb.ListTypesRequest())
        shown = {item.type.partition("/")[2]: item.description for item in catalog.types}
        assert shown == {"Told": "Says what it does.", "Untold": ""}
        for item in catalog.types:
            assert await channel.invoke(channel.calls.get_type, pb.GetTypeRequest(type=item.type)) == item


def test_a_streaming_twin_adds_nothing_and_a_stream_without_watches_is_a_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = """
  rpc RunAndWatch(In) returns (stream google.longrunning.Operation) {
    option (longshore.v1.operation) = { watches: "Run" };
  }"""
    stream = operation("Follow").replace("returns (", "returns (stream ")
    module = compile_module(
        tmp_path, "cg.second.v1", f"service ThingsService {{{operation('Run')}{twin}{stream}}}", monkeypatch
    )
    assert module.ThingsService.OPERATIONS == {"Run": "run", "Follow": "follow"}


def test_empty_channels_carry_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = 'response_type: "google.protobuf.Empty" metadata_type: "google.protobuf.Empty"'
    body = operation("Run", info=info, options='output_type: "google.protobuf.Empty"')
    module = compile_module(tmp_path, "cg.third.v1", f"service ThingsService {{{body}}}", monkeypatch)
    text = (tmp_path / "out/cg/third/v1/things_longshore.py").read_text()
    assert module.RunResult is None
    assert "RunProgress: typing_extensions.TypeAlias = typing_extensions.Never" in text
    assert "RunOutput: typing_extensions.TypeAlias = typing_extensions.Never" in text


def test_two_services_of_one_file_may_share_method_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"service AService {{{operation('Run')}}} service BService {{{operation('Run')}}}"
    module = compile_module(tmp_path, "cg.fourth.v1", body, monkeypatch)
    assert module.AClient is not module.BClient
    assert module.RunInput is module.BRunInput


def test_types_are_found_by_nested_and_by_full_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = 'response_type: "In.Nested" metadata_type: "cg.fifth.v1.Prog"'
    module = compile_module(tmp_path, "cg.fifth.v1", f"service S {{{operation('Run', info=info)}}}", monkeypatch)
    assert module.RunResult.DESCRIPTOR.full_name == "cg.fifth.v1.In.Nested"
    assert module.RunProgress.DESCRIPTOR.full_name == "cg.fifth.v1.Prog"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (
            operation("Run", info='response_type: "Rse" metadata_type: "Prog"'),
            'response_type: there is no message "Rse"; did you mean "Res"?',
        ),
        (operation("Run", info='response_type: "Res"'), "metadata_type is missing"),
        (operation("Run", options='output_type: "Nope"'), 'output_type: there is no message "Nope"; define it'),
        *(
            (
                operation("Run", options=f"{signal(name)} control {{}}"),
                f"S.Run: option longshore.v1.operation: signals[0].name: {name!r} must be at most 63 lower-case",
            )
            for name in ('say "hi"', "it's", "a\\", "a\nb", "Approve", "")
        ),
        (operation("Run", options=signal("a") + signal("a")), "signals[1].name: 'a' is declared twice"),
        (operation("Run", options='watches: "Run"'), "only a stream"),
        (operation("Run") + operation("run"), "is called 'run' in Python, as Run is"),
        (
            operation("Run") + operation("Twin", options='watches: "Rnu"').replace("returns (", "returns (stream "),
            'watches: "Rnu" is not an operation of this service (it has: Run)',
        ),
        (
            "rpc Run(In) returns (Res) { option (longshore.v1.operation) = {}; }",
            "must return google.longrunning.Operation",
        ),
        *(
            (operation("Run", options=options), f"S.Run: option longshore.v1.operation: {complaint} is not a field of")
            for options, complaint in (
                ('id_template: "run-{id}-{nothing}"', "id_template: 'nothing'"),
                ('id_template: "run-{id.nothing}"', "id_template: 'id.nothing'"),
                ('transfer { direction: TRANSFER_DIRECTION_SEND key_path: "nothing" }', "transfer.key_path: 'nothing'"),
            )
        ),
        (operation("Run").replace("(In)", "(stream In)"), "its request cannot be a stream"),
    ],
)
def test_a_wrong_contract_is_refused_with_file_line_and_method(tmp_path: Path, body: str, complaint: str) -> None:
    path = write_contract(tmp_path, "cg.bad.v1", f"service S {{{body}}}")
    with pytest.raises(CompileError) as caught:
        compile_protos([path], tmp_path / "out")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")
    assert not (tmp_path / "out/cg").exists(), "a refused contract leaves nothing half written"


def test_generation_and_the_server_have_one_rule_for_the_names_of_signals() -> None:
    assert SIGNAL_NAME.pattern == signals._NAME.pattern


def test_protoc_errors_come_through(tmp_path: Path) -> None:
    path = write_contract(tmp_path, "cg.broken.v1", "message Oops {")
    with pytest.raises(CompileError, match=r"things\.proto"):
        compile_protos([path], tmp_path / "out")
    with pytest.raises(CompileError, match="does not exist"):
        compile_protos([tmp_path / "nope.proto"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CompileError, match=r"there are no \.proto files in .*/empty$"):
        compile_protos([tmp_path / "empty"], tmp_path / "out")


def test_a_file_without_contract_gets_no_typed_module(tmp_path: Path) -> None:
    path = write_contract(tmp_path, "cg.plain.v1", "service S { rpc Get(In) returns (Res); }")
    written = [item.name for item in compile_protos([path], tmp_path / "out")]
    assert written == ["things_pb2.py", "things_pb2.pyi", "things_pb2_grpc.py"]


def test_a_folder_may_have_a_virtual_environment_and_nothing_of_that_is_compiled(tmp_path: Path) -> None:
    write_contract(tmp_path, "whole.v1", f"service ThingsService {{{operation('Make')}\n}}")
    installed = tmp_path / "venv" / "lib" / "site-packages" / "google" / "longrunning" / "operations_proto.proto"
    installed.parent.mkdir(parents=True)
    installed.write_text("one of those that packages bring, twice")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    written = compile_protos([tmp_path], tmp_path / "out")
    assert sorted({path.parent.as_posix() for path in written}) == ["whole/v1"]


def test_a_second_run_leaves_unchanged_files_alone(tmp_path: Path) -> None:
    path = write_contract(tmp_path, "cg.twice.v1", f"service S {{{operation('Run')}}}")
    compile_protos([path], tmp_path / "out")
    before = {item: item.stat().st_mtime_ns for item in (tmp_path / "out").rglob("*.py")}
    compile_protos([path], tmp_path / "out")
    assert {item: item.stat().st_mtime_ns for item in (tmp_path / "out").rglob("*.py")} == before


def test_packages_get_init_and_py_typed_on_request(tmp_path: Path) -> None:
    path = write_contract(tmp_path, "cg.pkg.v1", f"service S {{{operation('Run')}}}")
    compile_protos([path], tmp_path / "out", packages=True)
    assert (tmp_path / "out/cg/py.typed").exists()
    assert (tmp_path / "out/cg/pkg/v1/__init__.py").exists()


def test_rules_of_protovalidate_compile_and_their_module_is_written(tmp_path: Path) -> None:
    pytest.importorskip("protovalidate")
    path = write_contract(tmp_path, "cg.rules.v1", f"service S {{{operation('Run')}}}")
    path.write_text(
        path.read_text()
        .replace("import", 'import "buf/validate/validate.proto";\nimport', 1)
        .replace("string id = 1;", "string id = 1 [(buf.validate.field).string.min_len = 1];", 1)
    )
    written = {str(item) for item in compile_protos([path], tmp_path / "out")}
    assert {"buf/validate/validate_pb2.py", "cg/rules/v1/things_longshore.py"} <= written


def test_the_plugin_answers_protoc_itself(tmp_path: Path) -> None:
    """`protoc --longshore_out` gives the same bytes as the compile function."""
    import subprocess

    path = write_contract(tmp_path, "cg.real.v1", f"service S {{{operation('Run')}}}")
    compile_protos([path], tmp_path / "out")
    plugin = tmp_path / "protoc-gen-longshore"
    plugin.write_text(f"#!/bin/sh\nexec {sys.executable} -m longshore_client.codegen\n")
    plugin.chmod(0o755)
    from longshore_client.codegen.compile import third_party_roots

    includes = [f"-I{root}" for root in (tmp_path / "protos", *third_party_roots(tmp_path / "stage"))]
    (tmp_path / "direct").mkdir()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            *includes,
            f"--plugin={plugin}",
            f"--longshore_out={tmp_path / 'direct'}",
            "cg/real/v1/things.proto",
        ],
        check=True,
    )
    name = "cg/real/v1/things_longshore.py"
    assert (tmp_path / "direct" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_plugin_refuses_parameters() -> None:
    request = plugin_pb2.CodeGeneratorRequest(parameter="x=1", proto_file=[descriptor_pb2.FileDescriptorProto()])
    assert "takes no parameters" in respond(request).error
