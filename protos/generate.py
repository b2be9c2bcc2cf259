"""Write the committed stubs from the .proto files; with ``--check``, prove that they are current.

Run by ``make generate`` and ``make check`` with the interpreter of the environment that holds the pinned generator
(the dependency group ``generate`` in pyproject.toml). It compiles with the function behind ``longshore generate``, each
tree into a temporary directory first, which is then either compared with what is committed or put in its place: a
failing run leaves nothing half written.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib
import importlib.util
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
COMPILER = ROOT / "client" / "longshore_client" / "codegen" / "compile.py"


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree of .proto files and the directory that its packages are committed to.

    Only the top-level packages that the tree itself produces belong to the generator: the rest of the output
    directory may hold anything.
    """

    protos: Path
    output: Path
    contracts: bool
    """Whether its services are contracts, so that typed modules are written beside the stubs."""


def trees() -> Iterator[Tree]:
    """Our own protos first, then every example's and the tests' contracts, found by where they lie.

    A contract's packages stand beside the code that uses them, which is what Python finds by itself when that code is
    run. They get no ``__init__.py``: several trees may share a first name such as ``acme``.
    """
    yield Tree(ROOT / "protos", ROOT / "generated", contracts=False)
    for protos in sorted((*ROOT.glob("examples/*/protos"), *ROOT.glob("tests/contracts/protos"))):
        yield Tree(protos, protos.parent, contracts=True)


def load_compiler() -> ModuleType:
    """Load the compile function by its path: importing its package would need the stubs that are to be written."""
    spec = importlib.util.spec_from_file_location("longshore_compile", COMPILER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listing(folder: Path, tops: set[str]) -> set[Path]:
    """Every file below some of a folder's folders, relative to it, without what running Python leaves there."""
    files = (path.relative_to(folder) for top in tops for path in (folder / top).rglob("*") if path.is_file())
    return {path for path in files if "__pycache__" not in path.parts}


def differences(fresh: Path, committed: Path, tops: set[str]) -> dict[Path, str]:
    """The files that are missing, left over or different, and which of the three."""
    new, old = listing(fresh, tops), listing(committed, tops)
    found = dict.fromkeys(new - old, "missing") | dict.fromkeys(old - new, "left over")
    for path in new & old:
        if not filecmp.cmp(fresh / path, committed / path, shallow=False):
            found[path] = "different"
    return dict(sorted(found.items()))


def replace(fresh: Path, committed: Path, changes: dict[Path, str]) -> None:
    """Bring the committed tree up to date; a file that has not changed keeps its date."""
    for path, kind in changes.items():
        target = committed / path
        if kind == "left over":
            target.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / path, target)


def main() -> int:
    """Generate every tree, or compare every tree; the exit code is 1 when something is wrong or not current."""
    parser = argparse.ArgumentParser(description="Write the committed stubs from the .proto files.")
    parser.add_argument("--check", action="store_true", help="compare with the committed stubs and change nothing")
    check: bool = parser.parse_args().check
    compiler = load_compiler()
    # The contracts' typed modules are written with our own stubs, which this very run may be the first to write.
    sys.path.insert(0, str(ROOT / "generated"))
    outdated = 0
    for tree in trees():
        with tempfile.TemporaryDirectory() as name:
            fresh = Path(name)
            try:
                compiler.compile_protos(
                    [tree.protos],
                    fresh,
                    include=[tree.protos],
                    stubs="mypy-protobuf",
                    contracts=tree.contracts,
                    packages=not tree.contracts,
                )
            except compiler.CompileError as error:
                print(f"error: {tree.protos.relative_to(ROOT)}: {error}", file=sys.stderr)
                return 1
            changes = differences(fresh, tree.output, {path.name for path in fresh.iterdir()})
            if not check:
                replace(fresh, tree.output, changes)
                importlib.invalidate_caches()
        for path, kind in changes.items():
            print(f"{kind if check else 'written'}: {(tree.output / path).relative_to(ROOT)}")
        outdated += len(changes)
    if check and outdated:
        print("The committed stubs are not current: run `make generate` and commit the result.", file=sys.stderr)
        return 1
    print("The committed stubs are current." if check else f"{outdated} files written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
