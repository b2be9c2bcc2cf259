"""`protos/generate.py`: what it calls current, and what it touches."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_under_test", ROOT / "protos" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return write(tmp_path / "fresh", {"acme/v1/a_pb2.py": "one", "acme/v1/b_pb2.py": "two"})


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_equal_trees_do_not_differ(generate: ModuleType, fresh: Path, tmp_path: Path) -> None:
    committed = write(tmp_path / "out", {"acme/v1/a_pb2.py": "one", "acme/v1/b_pb2.py": "two"})
    assert generate.differences(fresh, committed, {"acme"}) == {}


def test_missing_left_over_and_edited_files_are_found(generate: ModuleType, fresh: Path, tmp_path: Path) -> None:
    committed = write(tmp_path / "out", {"acme/v1/a_pb2.py": "one, by hand", "acme/v1/gone_pb2.py": "three"})
    assert generate.differences(fresh, committed, {"acme"}) == {
        Path("acme/v1/a_pb2.py"): "different",
        Path("acme/v1/b_pb2.py"): "missing",
        Path("acme/v1/gone_pb2.py"): "left over",
    }


def test_what_the_generator_does_not_own_is_left_alone(generate: ModuleType, fresh: Path, tmp_path: Path) -> None:
    committed = write(tmp_path / "out", {"service.py": "mine", "acme/v1/__pycache__/a_pb2.pyc": "", "other/x.py": ""})
    changes = generate.differences(fresh, committed, {"acme"})
    generate.replace(fresh, committed, changes)
    assert (committed / "service.py").read_text() == "mine"
    assert (committed / "other" / "x.py").exists()
    assert generate.differences(fresh, committed, {"acme"}) == {}


def test_replacing_keeps_the_date_of_unchanged_files(generate: ModuleType, fresh: Path, tmp_path: Path) -> None:
    committed = write(tmp_path / "out", {"acme/v1/a_pb2.py": "one", "acme/v1/gone_pb2.py": "three"})
    before = (committed / "acme/v1/a_pb2.py").stat().st_mtime_ns
    generate.replace(fresh, committed, generate.differences(fresh, committed, {"acme"}))
    assert (committed / "acme/v1/a_pb2.py").stat().st_mtime_ns == before
    assert (committed / "acme/v1/b_pb2.py").read_text() == "two"
    assert not (committed / "acme/v1/gone_pb2.py").exists()


def test_own_protos_come_first_and_every_example_is_found(generate: ModuleType) -> None:
    # The contracts' modules import our own stubs, which therefore must be written before.
    found = [tree.protos.relative_to(ROOT).as_posix() for tree in generate.trees()]
    assert found[0] == "protos"
    assert "examples/orders/protos" in found


def test_compiler_is_loaded_without_importing_the_packages_whose_stubs_it_writes(generate: ModuleType) -> None:
    assert generate.load_compiler().__name__ not in sys.modules
