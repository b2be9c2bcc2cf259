"""Write the committed stubs from the .proto files; with ``--check``, prove that they are current.

Run by ``make generate`` and ``make check`` with the interpreter of the environment that holds the pinned generator
(the dependency group ``generate`` in pyproject.toml). Every tree is generated into a temporary directory first and
then either compared with what is committed or put in its place, so a failing run leaves nothing half written.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


class GenerationError(Exception):
    """A compiler run failed; its own message has already been printed."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree of .proto files and the directory that its stubs are committed to, both relative to the root."""

    protos: Path
    output: Path


LONGSHORE = Tree(protos=Path("protos"), output=Path("generated"))


def plugin(name: str) -> str:
    """The ``--plugin`` flag that runs a plugin of this very environment, activated or not."""
    suffix = ".exe" if sys.platform == "win32" else ""
    return f"--plugin={name}={Path(sysconfig.get_path('scripts')) / (name + suffix)}"


def compile_longshore(tree: Tree, out: Path) -> None:
    """Compile our own protos: messages, services and typed stubs for both."""
    sources = sorted(path.relative_to(ROOT / tree.protos) for path in (ROOT / tree.protos).rglob("*.proto"))
    with as_file(files("grpc_tools") / "_proto") as well_known:
        site_packages = Path(sysconfig.get_path("purelib"))
        code = protoc.main(
            [
                "protoc",
                f"-I{ROOT / tree.protos}",
                f"-I{site_packages}",
                f"-I{well_known}",
                plugin("protoc-gen-mypy"),
                plugin("protoc-gen-mypy_grpc"),
                f"--python_out={out}",
                f"--grpc_python_out={out}",
                f"--mypy_out=quiet:{out}",
                f"--mypy_grpc_out=quiet:{out}",
                *(path.as_posix() for path in sources),
            ]
        )
    if code != 0:
        raise GenerationError(f"protoc exited with {code} on {tree.protos}")
    drop_empty_services(out, sources)
    make_packages(out)


def drop_empty_services(out: Path, sources: list[Path]) -> None:
    """Remove the gRPC modules of files that declare no service: the generators write them regardless."""
    for source in sources:
        stem = out / source.with_suffix("")
        module = stem.with_name(stem.name + "_pb2_grpc.py")
        if module.exists() and "class " not in module.read_text():
            module.unlink()
            module.with_suffix(".pyi").unlink(missing_ok=True)


def make_packages(out: Path) -> None:
    """Add what the generators leave out: ``__init__.py`` in each package, ``py.typed`` in the topmost ones."""
    for folder in sorted(path for path in out.rglob("*") if path.is_dir()):
        (folder / "__init__.py").touch()
        if folder.parent == out:
            (folder / "py.typed").touch()


def listing(folder: Path) -> set[Path]:
    """Every file below a folder, relative to it, without what running Python leaves there."""
    return {
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def differences(fresh: Path, committed: Path) -> list[str]:
    """One line for each file that is missing, left over or different."""
    new, old = listing(fresh), listing(committed)
    lines = [f"missing  {committed / path}" for path in new - old]
    lines += [f"stale    {committed / path}" for path in old - new]
    lines += [
        f"differs  {committed / path}"
        for path in new & old
        if not filecmp.cmp(fresh / path, committed / path, shallow=False)
    ]
    return sorted(lines)


def replace(fresh: Path, committed: Path) -> None:
    """Make the committed tree equal to the fresh one, touching only files that changed."""
    new, old = listing(fresh), listing(committed)
    for path in old - new:
        (committed / path).unlink()
    for path in new:
        target = committed / path
        if path in old and filecmp.cmp(fresh / path, target, shallow=False):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(fresh / path, target)


def main() -> int:
    """Generate every tree, or compare every tree; the exit code is 1 when something is not current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare with the committed stubs and change nothing")
    check: bool = parser.parse_args().check
    found: list[str] = []
    for tree in (LONGSHORE,):
        with tempfile.TemporaryDirectory() as name:
            fresh = Path(name)
            compile_longshore(tree, fresh)
            lines = differences(fresh, ROOT / tree.output)
            if not check:
                replace(fresh, ROOT / tree.output)
        found += lines
        print(f"{tree.output}: {len(lines)} files {'out of date' if check else 'written'}")
    for line in found:
        print(f"  {line}")
    if check and found:
        print("Run `make generate` and commit the result.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
