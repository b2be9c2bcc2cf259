"""What a server would refuse of a contract at its start is refused when it is compiled, where a server is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

from longshore_client.codegen.compile import CompileError, compile_protos
from longshore_client.codegen.model import ContractError
from longshore_client.codegen.plugin import generate_modules
from tests.codegen.test_plugin import operation, signal, write_contract
from tests.server.contracts import contract
from tests.server.test_contract_mistakes import CASES

# What the generator itself must understand it refuses everywhere, in words of its own.
OWN = ("option longshore.v1.operation: ", "option google.longrunning.operation_info: ", "so it must", "so its request")
ALONE = operation("Run", options=signal("go"))


def compiled(service: ServiceDescriptor) -> dict[str, str]:
    """The modules of a contract that was made at run time."""
    return generate_modules(list(imported(service.file, set())), [service.file.name])


def imported(file: FileDescriptor, seen: set[str]) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """A file and all that it imports, each after what it imports itself."""
    if file.name not in seen:
        seen.add(file.name)
        for other in file.dependencies:
            yield from imported(other, seen)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        yield proto


@pytest.mark.parametrize("case", CASES)
def test_every_mistake_that_a_server_refuses_is_refused(case: str) -> None:
    proto, message = CASES[case]
    service = contract(proto)
    with pytest.raises(ContractError) as caught:
        compiled(service)
    place, said = str(caught.value).replace(service.file.package, "PKG").split(": Orders.Play: ")
    assert place == "PKG.proto"
    assert said == message or any(words in said for words in OWN)


def test_the_line_of_the_method_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = write_contract(tmp_path, "cg.alone.v1", f"service S {{{ALONE}}}")
    with pytest.raises(CompileError) as caught:
        compile_protos([path], tmp_path / "out")
    line = path.read_text().splitlines().index("  rpc Run(In) returns (google.longrunning.Operation) {") + 1
    assert str(caught.value) == (
        f"{path}:{line}: S.Run: option control: it must be present, because signals are declared; "
        "say `control: {}` to mean everyone"
    )
    assert not (tmp_path / "out" / "cg").exists()


def test_a_rule_that_no_message_can_satisfy_is_refused(tmp_path: Path) -> None:
    body = f"""
        import "buf/validate/validate.proto";
        message Ruled {{ string a = 1 [(buf.validate.field).cel = {{ id: "x" expression: "this > 3" }}]; }}
        service S {{{operation("Run").replace("(In)", "(Ruled)")}}}"""
    path = write_contract(tmp_path, "cg.ruled.v1", body)
    with pytest.raises(CompileError, match=r"cg\.ruled\.v1\.Ruled.*: No matching overloads"):
        compile_protos([path], tmp_path / "out")
    path.write_text(path.read_text().replace("this > 3", "this.size() > 3"))
    assert compile_protos([path], tmp_path / "out")


def test_what_need_not_be_served_together_may_have_one_prefix(tmp_path: Path) -> None:
    run = operation("Run", options='id_template: "run-{id}"')
    path = write_contract(tmp_path, "cg.apart.v1", f"service A {{{run}}} service B {{{run}}}")
    assert compile_protos([path], tmp_path / "out")


def test_a_caller_without_a_server_compiles_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "longshore_server.contract.compiled", None)
    path = write_contract(tmp_path, "cg.caller.v1", f"service S {{{ALONE}}}")
    assert compile_protos([path], tmp_path / "out")
