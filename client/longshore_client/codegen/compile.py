"""Compiles `.proto` files to Python with everything on the include path that contracts need.

One function, used by `longshore generate` and by the repository's own generator. It runs the protoc of grpcio-tools,
which is pinned by the caller's environment, and then this package's generator on the descriptors of the same run.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import sysconfig
import tempfile
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from google.protobuf import descriptor_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Stubs = Literal["mypy-protobuf", "protoc", "none"]

_IMPORT = re.compile(rb'^\s*import\s+(?:public\s+|weak\s+)?"([^"]+)"\s*;', re.MULTILINE)
_PACKAGE = re.compile(rb"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)
_GOOGLE_IMPORT = re.compile(r"^(from google\.(?:api|longrunning|rpc)[\w.]* import \w+ as (\w+))$", re.MULTILINE)
VALIDATE = "buf/validate/validate.proto"
_THIRD_PARTY = 3
"""How many of the roots are not the contracts' own: what `third_party_roots` gives, at the end."""


class CompileError(Exception):
    """The files could not be compiled. The text is one sentence that names file and line, or protoc's own words."""


class Sources(NamedTuple):
    """What is to be compiled, and where the compiler finds it."""

    names: list[str]
    """The files, as imports name them."""
    roots: list[Path]
    """Where they and all that they import are."""
    arguments: list[str]
    """The same for protoc."""
    described: bool
    """Whether `buf/validate/validate.proto` is among what they import and no root has it: protoc gets a descriptor."""

    def known(self) -> dict[str, Path]:
        """Every file that contracts can import, by the name that imports give it: those beside them, and all that is on
        the include path by itself."""
        own = len(self.roots) - _THIRD_PARTY
        found = {name: path for name, path in closure(self.names, self.roots).items() if path is not None}
        for path in [beside for given in found.values() for beside in sorted(given.parent.glob("*.proto"))]:
            root = next((root for root in self.roots[:own] if path.is_relative_to(root)), None)
            if root is not None:
                found.setdefault(path.relative_to(root).as_posix(), path)
        # What installs packages has a folder of each: only ours and the compiler's are meant.
        for root in (*self.roots[own:], _compilers_root()):
            for path in [file for top in ("google", "longshore") for file in sorted((root / top).rglob("*.proto"))]:
                found.setdefault(path.relative_to(root).as_posix(), path)
        return found


def compile_protos(
    files: Iterable[Path],
    out: Path,
    *,
    include: Sequence[Path] = (),
    grpc: bool = True,
    contracts: bool = True,
    stubs: Stubs = "protoc",
    packages: bool = False,
) -> list[Path]:
    """Compile files to `_pb2.py`, `_pb2.pyi`, `_pb2_grpc.py` and, for contracts, `_longshore.py`.

    Args:
        files: The `.proto` files, or folders that are searched for them, but for the virtual environments in these.
        out: The folder to write to; made if missing. It is what goes on the import path.
        include: Source roots. Default: each file's own, found from its `package` line.
        grpc: Whether files with services get `_pb2_grpc.py`.
        contracts: Whether files that declare operations get `_longshore.py`. Needs the `longshore` package.
        stubs: Who writes the `.pyi` files: protoc itself, the plugin mypy-protobuf (richer, must be installed; also
            for the gRPC modules), or nobody.
        packages: Whether every folder gets an `__init__.py` and each top one a `py.typed`. Not so `google`, which is
            everybody's: what others install there would be hidden. A `py.typed` is in each folder below it instead.

    Returns:
        The paths of the written files, relative to `out`, sorted.

    Raises:
        CompileError: A file is missing or wrong, cannot be read or written, or a needed package is not installed.
    """
    with file_errors(), tempfile.TemporaryDirectory(prefix="longshore-protoc-") as scratch_name:
        scratch = Path(scratch_name)
        sources = find_sources(files, include, scratch)
        names, _, arguments, described = sources
        out.mkdir(parents=True, exist_ok=True)
        staged = scratch / "out"
        staged.mkdir()
        image = scratch / "image.binpb"
        protoc(
            [
                *arguments,
                f"--descriptor_set_out={image}",
                "--include_imports",
                "--include_source_info",
                *_generator_arguments(staged, grpc=grpc, stubs=stubs),
                *names,
            ],
            sources,
        )
        if described:
            # No installed package ships this module, and the contracts' own modules import it.
            protoc([*arguments, f"--python_out={staged}", f"--pyi_out={staged}", VALIDATE])
        _drop_empty_grpc(staged, image, names)
        if stubs == "protoc":
            _drop_unused_google_imports(staged)
        if contracts:
            _write_contracts(staged, image, sources)
        if packages:
            _write_package_files(staged)
        return install(staged, out)


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """Turn what the file system refuses into `CompileError`."""
    try:
        yield
    except OSError as error:
        raise CompileError(f"{error.filename} cannot be used: {error.strerror}; name another, or mend that") from error


def find_sources(files: Iterable[Path], include: Sequence[Path], scratch: Path) -> Sources:
    """Find the files of a team, and all that they may import.

    Args:
        files: As for `compile_protos`.
        include: As for `compile_protos`.
        scratch: A folder for what has to be made.

    Raises:
        CompileError: A file is missing, or a needed package is not installed.
    """
    if util.find_spec("grpc_tools") is None:
        raise CompileError('grpcio-tools is not installed: pip install "longshore-grpc[cli]"')
    given = list(files)
    roots, names = _roots_and_names(given, [path.resolve() for path in include])
    if not names:
        raise CompileError(f"there are no .proto files in {', '.join(map(str, given))}")
    roots += third_party_roots(scratch / "include")
    arguments = [f"-I{path}" for path in roots]
    descriptor = _validate_descriptor(names, roots, scratch)
    if descriptor is not None:
        arguments.append(f"--descriptor_set_in={descriptor}")
    return Sources(names, roots, arguments, descriptor is not None)


def third_party_roots(stage: Path) -> list[Path]:
    """Include paths for what contracts import: `longshore/v1`, `google/longrunning`, `google/rpc`, `google/api`.

    The installed googleapis-common-protos carries `operations.proto` under a name that compiles but then fails at
    import, so a copy under the right name is put into `stage`.

    Raises:
        CompileError: googleapis-common-protos or Longshore's own `.proto` files are not installed.
    """
    spec = util.find_spec("google.longrunning")
    locations = list(spec.submodule_search_locations or ()) if spec else []
    source = next(
        (path for path in (Path(item) / "operations_proto.proto" for item in locations) if path.is_file()), None
    )
    if source is None:
        raise CompileError("googleapis-common-protos is not installed: pip install googleapis-common-protos")
    target = stage / "google" / "longrunning" / "operations.proto"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return [stage, longshore_root(), source.parents[2]]


def longshore_root() -> Path:
    """Where `longshore/v1/*.proto` lies: in a checkout, or beside the installed modules."""
    checkout = Path(__file__).resolve().parents[3] / "protos"
    places = [checkout, *(Path(entry or ".") for entry in sys.path), Path(sysconfig.get_path("purelib"))]
    for place in places:
        if (place / "longshore" / "v1" / "annotations.proto").is_file():
            return place.resolve()
    raise CompileError("longshore/v1/annotations.proto is not installed: reinstall longshore")


def _compilers_root() -> Path:
    """Where `google/protobuf/*.proto` lie, which protoc finds by itself."""
    spec = util.find_spec("grpc_tools")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_proto"


def _roots_and_names(files: Sequence[Path], include: list[Path]) -> tuple[list[Path], list[str]]:
    roots = list(include)
    names: list[str] = []
    for given in files:
        path = given.resolve()
        if not path.exists():
            raise CompileError(f"{given} does not exist")
        found = _below(path) if path.is_dir() else [path]
        for file in found:
            root = next((root for root in roots if file.is_relative_to(root)), None)
            if root is None:
                root = _guess_root(file, path)
                roots.append(root)
            name = file.relative_to(root).as_posix()
            if name not in names:
                names.append(name)
    return roots, names


def _below(folder: Path) -> list[Path]:
    """The files of a project, without what is installed in its virtual environment, which may be in its folder."""
    environments = {mark.parent for mark in folder.rglob("pyvenv.cfg")} - {folder}
    return sorted(file for file in folder.rglob("*.proto") if environments.isdisjoint(file.parents))


def _guess_root(file: Path, given: Path) -> Path:
    """A file of package `acme.orders.v1` in `.../acme/orders/v1` has the root `...`; else its own folder is it.

    Raises `CompileError` for one of package `acme.orders.v2` in the folder `acme/orders/v1` of what was given: its
    modules would go elsewhere, and those that had been made before would still be imported.
    """
    content = file.read_bytes()
    package = _PACKAGE.search(content)
    parts = package[1].decode().split(".") if package else []
    folders = file.parent.parts
    if parts and list(folders[-len(parts) :]) == parts:
        return file.parents[len(parts)]
    below = file.parent.relative_to(given).parts if given.is_dir() else ()
    if package is not None and 1 < len(below) == len(parts) and below[0] == parts[0]:
        line = content.count(b"\n", 0, package.start(1)) + 1
        column = package.start(1) - content.rfind(b"\n", 0, package.start(1))
        where = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        slip = f"the package is {'.'.join(parts)}, and the folder {'/'.join(below)}"
        raise CompileError(
            f"{where}:{line}:{column}: {slip}; call one as the other, or give the root to `longshore generate -I`"
        )
    return file.parent


def _generator_arguments(out: Path, *, grpc: bool, stubs: Stubs) -> list[str]:
    arguments = [f"--python_out={out}"]
    if grpc:
        arguments.append(f"--grpc_python_out={out}")
    if stubs == "protoc":
        arguments.append(f"--pyi_out={out}")
    elif stubs == "mypy-protobuf":
        # By path: the environment that this runs in need not be an activated one.
        scripts = Path(sysconfig.get_path("scripts"))
        for plugin, wanted in (("mypy", True), ("mypy_grpc", grpc)):
            if not wanted:
                continue
            executable = scripts / f"protoc-gen-{plugin}"
            if not executable.exists():
                raise CompileError("mypy-protobuf is not installed: pip install mypy-protobuf")
            arguments += [f"--plugin=protoc-gen-{plugin}={executable}", f"--{plugin}_out={out}"]
    return arguments


def protoc(arguments: Sequence[str], sources: Sources | None = None) -> None:
    """Run protoc. Raises `CompileError`: what is wrong with the sources in one sentence, or without them its words."""
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    said = done.stderr.strip() or f"protoc ended with status {done.returncode}"
    if sources is not None:
        # The repository compiles `longshore/v1` with this module before its package can be imported.
        with contextlib.suppress(ImportError):
            from longshore_client.codegen.complaints import explain

            said = explain(said, sources.known())
    raise CompileError(said)


def _validate_descriptor(names: Sequence[str], includes: Sequence[Path], scratch: Path) -> Path | None:
    """Descriptor set of `buf/validate/validate.proto` if a contract imports it and no include path has it."""
    if closure(names, includes).get(VALIDATE, scratch) is not None:
        # Nobody imports it, or somebody has it as a file.
        return None
    try:
        import protovalidate
    except ImportError as error:
        raise CompileError(f'{VALIDATE} comes with protovalidate: pip install "protovalidate>=2.1"') from error
    file = descriptor_pb2.FileDescriptorProto.FromString(
        type(protovalidate.Violation().proto).desc().file.proto.to_binary()
    )
    path = scratch / "validate.binpb"
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    return path


def closure(names: Sequence[str], includes: Sequence[Path]) -> dict[str, Path | None]:
    """The files and all that they import, directly or through others; None for a file that no root has."""
    found: dict[str, Path | None] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found[name] = next((root / name for root in includes if (root / name).is_file()), None)
        path = found[name]
        if path is not None:
            queue += [match.decode() for match in _IMPORT.findall(path.read_bytes())]
    return found


def _drop_empty_grpc(staged: Path, image: Path, names: Sequence[str]) -> None:
    """Remove the gRPC modules that protoc writes for files without a service."""
    with_service = {file.name for file in read_image(image).file if file.service}
    for name in set(names) - with_service:
        stem = staged / name.removesuffix(".proto").replace("-", "_")
        for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
            stem.with_name(stem.name + suffix).unlink(missing_ok=True)


def _drop_unused_google_imports(staged: Path) -> None:
    """Remove what protoc's `.pyi` files import for options only.

    googleapis-common-protos is not typed, so strict type checkers would complain about a line that nothing uses.
    """
    for path in staged.rglob("*_pb2.pyi"):
        text = path.read_text(encoding="utf-8")
        for line, alias in _GOOGLE_IMPORT.findall(text):
            if text.count(alias) == 1:
                text = text.replace(f"{line}\n", "")
        path.write_text(text, encoding="utf-8")


def read_image(image: Path) -> descriptor_pb2.FileDescriptorSet:
    """The descriptors that protoc has written."""
    return descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())


def _write_contracts(staged: Path, image: Path, sources: Sources) -> None:
    # Imported here: the repository compiles `longshore/v1` with this module before it can be imported. The import also
    # registers the options, without which reading the image below would leave them unknown.
    from longshore_client.codegen.complaints import shown
    from longshore_client.codegen.definitions import Definitions
    from longshore_client.codegen.model import ContractError
    from longshore_client.codegen.plugin import generate_modules

    try:
        modules = generate_modules(read_image(image).file, sources.names)
    except ContractError as error:
        files = sources.known()
        statement = Definitions(files).statement(error.unknown) if error.unknown else ""
        sentence = f"{error.problem}; add {statement}" if statement else str(error)
        # As protoc names it: the contract knows itself by what others import.
        name, colon, rest = sentence.partition(":")
        raise CompileError(f"{shown(files[name])}{colon}{rest}" if name in files else sentence) from error
    for path, text in modules.items():
        target = staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _write_package_files(staged: Path) -> None:
    shared = staged / "google"
    for folder in [path for path in staged.rglob("*") if path.is_dir()]:
        if not folder.is_relative_to(shared):
            (folder / "__init__.py").touch()
        if folder.parent in (staged, shared) and folder != shared:
            (folder / "py.typed").touch()


def install(staged: Path, out: Path) -> list[Path]:
    """Copy what is new or changed; unchanged files keep their time, so nothing is rebuilt for nothing."""
    written = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())
    for path in written:
        target = out / path
        content = (staged / path).read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return written
