"""What is said of a contract that protoc refuses: one sentence, with the place and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore_client.codegen.compile import CompileError, compile_protos
from longshore_client.codegen.export import export_protos

CONTRACT = """\
syntax = "proto3";
package complaints.v1;
import "google/longrunning/operations.proto";
import "longshore/v1/annotations.proto";
service MakingService {
  rpc Make(MakeRequest) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = {
      response_type: "MakeResult"
      metadata_type: "MakeResult"
    };
    option (longshore.v1.operation) = {
      cancellation: CANCELLATION_COOPERATIVE
      timeout: { seconds: 3600 }
    };
  }
}
message MakeRequest {
  string item = 1;
  int32 parts = 2;
}
message MakeResult {
  repeated string parts = 1;
}
"""
CANCELLATION = "cancellation: CANCELLATION_COOPERATIVE"
TIMEOUT = "{ seconds: 3600 }"
OPERATION = CONTRACT[CONTRACT.index("(longshore.v1.operation) = {") : CONTRACT.index("    };\n  }\n") + len("    };")]
ITEM = "message MakeRequest {\n  string item = 1;"
RULED = 'import "buf/validate/validate.proto";\nmessage MakeRequest {\n  string item = 1 [RULE];'
WRONG = {
    "semicolon": ("item = 1;", "item = 1", '19:3: a ";" is missing before this, or a bracket further up is not'),
    "statement": ("message MakeRequest", "mesage MakeRequest", '17:1: "mesage" begins no statement; did you mean "mes'),
    "word": ("option (long", "optino (long", '11:5: "optino" is not known here; did you mean "option"?'),
    "returns": (") returns (", ") (", '6:25: "returns" is needed here, and not "("'),
    "end": ("string parts = 1;\n}", "string parts = 1;", '23:1: the file ends within a message: a "}" is missing'),
    "quotes": ('"MakeResult"', '"MakeResult', "8:33: a text does not end on the line it begins on: close its quotes"),
    "curly": ('"MakeResult"', "“MakeResult”", "8:22: '“' may stand in comments and texts only; write plain quotes"),
    "no syntax": ('syntax = "proto3";\n', "", '1:1: the file does not say which syntax it has: begin it with syntax'),
    "syntax": ("proto3", "proto4", '1:10: there is no syntax "proto4"; write syntax = "proto3";'),
    "number": ("parts = 2", "parts", "19:14: the field has no number: give it one that its message does not have"),
    "dash": ("parts = 2", "parts-of = 2", '19:14: "=" and the number of the field are needed here, and not "-"'),
    "zero": ("parts = 2", "parts = 0", "19:17: the number of a field is at least 1; free is 2"),
    "same number": ("parts = 2", "parts = 1", '19:17: Field number 1 has already been used in "complaints.v1.Make'),
    "same name": ("parts = 2", "item = 2", '19:9: "item" is defined in "complaints.v1.MakeRequest" already; give one'),
    "required": ("int32", "required int32", '19:12: proto3 has no required fields; leave "required" out'),
    "scalar": ("string item", "Strin item", '18:3: there is no type "Strin"; did you mean "string"?'),
    "type": ("(MakeRequest)", "(MakeReqest)", '6:12: there is no type "MakeReqest"; did you mean "MakeRequest"?'),
    "no type": ("string item", "Zzz item", '18:3: there is no type "Zzz"; define it, or import the file that does'),
    "no message": ("(MakeRequest)", "(string)", '6:12: "string" is no message; write one that holds it'),
    "usual type": ("string item", "Timestamp item", '18:3: there is no type "Timestamp"; write google.protobuf.Times'),
    "bare operation": ("google.longrunning.Operation)", "Operation)", '6:34: there is no type "Operation"; write goog'),
    "inner scope": ("string item", "v1.CounterProgress item", "; write longshore.v1.CounterProgress, and add import "),
    "beside": ("string item", "Color item", '18:3: "complaints.v1.Color" is not imported; add import "complaints/v'),
    "not imported": (
        'import "google/longrunning/operations.proto";\n', "",
        '5:34: "google.longrunning.Operation" is not imported; add import "google/longrunning/operations.proto";',
    ),
    "option not imported": (
        'import "longshore/v1/annotations.proto";\n', "",
        '10:12: the option (longshore.v1.operation) is not imported; add import "longshore/v1/annotations.proto";',
    ),
    "rule": ("item = 1", "item = 1 [(buf.validate.field).string.min_len = 1]", '; add import "buf/validate/validate.p'),
    "import": ("v1/annotations", "v1/anotations", '4:1: there is no file "longshore/v1/anotations.proto"; did you mea'),
    "short import": ("longshore/v1/ann", "ann", '4:1: there is no file "annotations.proto"; did you mean "longshore/v'),
    "far import": ("longshore/v1/ann", "zz/", '4:1: there is no file "zz/otations.proto"; give its path from the fold'),
    "import from here": ("longshore/v1/ann", "protos/longshore/v1/ann", '; did you mean "longshore/v1/annotations.pro'),
    "unquoted import": ('"longshore/v1/annotations.proto"', "x.proto", "4:8: the name of a file to import stands betw"),
    "open comment": ("message MakeR", "/* message MakeR", "a comment that begins with /* does not end; close it with"),
    "no request": ("(MakeRequest)", "()", '6:12: the type name is missing here, before ")"'),
    "comment": ("message MakeR", "# What\nmessage MakeR", "17:1: a comment begins with //, and not with #"),
    "number of others": ("item = 1;", "item = 19000;", "making.proto: Field numbers 19000 through 19999 are reserved"),
    "itself": ("longshore/v1/annotations", "complaints/v1/making", "4:1: the file imports itself; leave this out"),
    "option": ("v1.operation)", "v1.operatoin)", '11:12: there is no option (longshore.v1.operatoin); did you mean'),
    "parentheses": ("(longshore.v1.operation)", "longshore.v1.operation", "stands in parentheses; write (longshore.v1"),
    "of a method": ("item = 1", "item = 1 [(longshore.v1.operation) = {}]", "is no option of a field; it is one of a "),
    "field": ("cancellation:", "cancelation:", '12:7: longshore.v1.OperationContract has no field "cancelation"; did '),
    "far field": ("cancellation:", "zzz:", '12:7: longshore.v1.OperationContract has no field "zzz"; it has call, obs'),
    "inner field": ("seconds", "second", '13:18: google.protobuf.Duration has no field "second"; did you mean "second'),
    "dotted field": (OPERATION, "(longshore.v1.operation).tmeout = {};", 'has no field "tmeout"; did you mean "timeou'),
    "deep field": (OPERATION, "(longshore.v1.operation).timeout.second = 5;", 'google.protobuf.Duration has no field '),
    "field of a rule": (
        ITEM, RULED.replace("RULE", "(buf.validate.field).zonk = {}"), 'option (buf.validate.field) has no field "zonk',
    ),
    "other rule": (
        ITEM, RULED.replace("RULE", "(buf.validate.feild) = {}"),
        '19:20: there is no option (buf.validate.feild); did you mean "buf.validate.field"?',
    ),
    "value": ("CANCELLATION_COOP", "COOP", '12:21: cancellation cannot be "COOPERATIVE"; did you mean "CANCELLATION_C'),
    "dotted value": (
        OPERATION, "(longshore.v1.operation).cancellation = NO;", '11:52: cancellation cannot be "NO"; it can be CANCE',
    ),
    "quoted value": (CANCELLATION, 'on_crash: "X"', '12:17: on_crash must be a value without quotes, and not "X"'),
    "duration": (TIMEOUT, '"1h"', '13:16: timeout must be a message between braces, for example { seconds: 60 }, and'),
    "whole": ("3600", "0.5", "13:27: seconds must be a whole number, and not 0.5"),
    "large": (CANCELLATION, "max_crashes: 99999999999", "12:20: max_crashes cannot be 99999999999, which is out of ra"),
    "truth": (f"timeout: {TIMEOUT}", "unbounded: yes", '13:18: unbounded cannot be "yes"; write true or false'),
    "number for truth": (f"timeout: {TIMEOUT}", "unbounded: 3", "13:18: unbounded cannot be 3; write true or false"),
    "equals": ("cancellation:", "cancellation =", '12:20: within braces a field and its value are parted by ":", and '),
    "colon": ("cancellation:", "cancellation", '12:20: a ":" is needed between the name of a field and its value, bef'),
    "twice": (CANCELLATION, f"{CANCELLATION} {CANCELLATION}", "12:46: cancellation is set already; set it once"),
    "either": (CANCELLATION, "unbounded: true", "13:7: timeout and unbounded exclude each other; leave one out"),
    "result": ('"MakeResult"', '"MakeReslt"', 'response_type: there is no message "MakeReslt"; did you mean "MakeResu'),
    "far result": ('"MakeResult"', '"Zzz"', 'response_type: there is no message "Zzz"; define it, or import the file'),
    "result not imported": (
        '"MakeResult"', '"longshore.v1.MilestoneProgress"',
        'there is no message "longshore.v1.MilestoneProgress"; add import "longshore/v1/channels.proto";',
    ),
    "tab": ("  int32 parts = 2", "\tint32\tparts = 1", "19:16: Field number 1 has already been used"),
    "first value": ("message MakeResult", "enum A { A_ONE = 1; }\nmessage MakeResult", "21:18: the first value of an "),
    "shared values": (
        "message MakeResult", "enum A { ONE = 0; }\nenum BigBox { ONE = 0; }\nmessage MakeResult",
        '22:15: "ONE" is a value of another enum in "complaints.v1"; call this one "BIG_BOX_ONE"',
    ),
}  # fmt: skip


def write(folder: Path, text: str | bytes) -> Path:
    protos = folder / "protos"
    path = protos / "complaints" / "v1" / "making.proto"
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.with_name("colors.proto").write_text('syntax = "proto3";\npackage complaints.v1;\nmessage Color {}\n')
    return protos


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_one_sentence_with_its_place(
    tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, sentence = WRONG[mistake]
    assert old in CONTRACT
    write(tmp_path, CONTRACT.replace(old, new, 1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompileError) as caught:
        compile_protos([Path("protos")], tmp_path / "out")
    [line] = str(caught.value).splitlines()
    assert line.startswith("protos/complaints/v1/making.proto:")
    assert sentence in line


def test_the_first_mistake_is_the_one_of_an_imported_file(tmp_path: Path) -> None:
    protos = write(tmp_path, CONTRACT.replace("longshore/v1/annotations.proto", "complaints/v1/colors.proto"))
    colors = protos / "complaints" / "v1" / "colors.proto"
    colors.write_text("nonsense")
    with pytest.raises(CompileError) as caught:
        compile_protos([protos / "complaints" / "v1" / "making.proto"], tmp_path / "out")
    assert str(caught.value).startswith(f'{colors}:1:1: "nonsense" begins no statement; a statement begins with one of')


def test_a_package_that_is_nearly_its_folder_is_refused_unless_the_root_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its modules would go to another place than before, and those that are there would go on to be imported."""
    protos = write(tmp_path, CONTRACT.replace("package complaints.v1", "package complaints.v2"))
    (protos / "complaints" / "v1" / "colors.proto").unlink()  # whose package says where the root is
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompileError) as caught:
        compile_protos([Path("protos")], tmp_path / "out")
    assert str(caught.value) == (
        "protos/complaints/v1/making.proto:2:9: the package is complaints.v2, and the folder complaints/v1; "
        "call one as the other, or give the root to `longshore generate -I`"
    )
    assert not (tmp_path / "out").exists()
    compile_protos([Path("protos")], tmp_path / "out", include=[protos])
    assert (tmp_path / "out" / "complaints" / "v1" / "making_pb2.py").is_file()


def test_a_file_in_another_encoding_is_said_to_be_in_one(tmp_path: Path) -> None:
    protos = write(tmp_path, CONTRACT.encode("utf-16"))
    with pytest.raises(CompileError, match=r"making\.proto:1:1: the file is not UTF-8: save it as such$"):
        compile_protos([protos], tmp_path / "out")


def test_what_is_exported_is_looked_at_alike(tmp_path: Path) -> None:
    protos = write(tmp_path, CONTRACT.replace("string item", "Strin item"))
    with pytest.raises(CompileError, match=r'making\.proto:18:3: there is no type "Strin"; did you mean "string"\?$'):
        export_protos([protos], tmp_path / "out")


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, CONTRACT.replace("annotations", "anotations"))
    done = subprocess.run(
        [sys.executable, "-m", "longshore_client.cli", "generate", "protos", "--out", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        'error: protos/complaints/v1/making.proto:4:1: there is no file "longshore/v1/anotations.proto"; '
        'did you mean "longshore/v1/annotations.proto"?\n'
    )
    assert not (tmp_path / "out" / "complaints").exists()


@pytest.mark.parametrize("way", ["--out", "--export", "--descriptor-set"])
def test_where_nothing_can_be_written_is_one_sentence(tmp_path: Path, way: str) -> None:
    write(tmp_path, CONTRACT)
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "longshore_client.cli", "generate", "protos", way, "file/x"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: file")
    assert line.endswith("; name another, or mend that")
