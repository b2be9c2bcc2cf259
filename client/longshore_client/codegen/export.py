"""Contracts for other languages: as a tree of `.proto` files that needs no other, and as one set of descriptors.

Both hold the team's files, all of `longshore.v1` with `google.bytestream`, the details of refusals, and whatever any of
these imports.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from longshore_client.codegen.compile import (
    VALIDATE,
    CompileError,
    closure,
    file_errors,
    find_sources,
    install,
    longshore_root,
    protoc,
    read_image,
)
from longshore_client.codegen.proto_text import write_proto

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf import descriptor_pb2

_OURS = ("longshore/v1/*.proto", "google/bytestream/*.proto")
"""What callers speak with the server besides the contracts."""
_DETAILS = "google/rpc/error_details.proto"
"""What refusals carry. Nothing imports it: details are of any type."""
_COMPILERS_OWN = "google/protobuf/"
"""Every compiler of protos brings these, each in the version that fits its runtime."""


def export_protos(
    files: Iterable[Path], out: Path | None = None, *, descriptor_set: Path | None = None, include: Sequence[Path] = ()
) -> list[Path]:
    """Write what callers in other languages need of contracts.

    Args:
        files: The `.proto` files, or folders that are searched for them.
        out: The folder for the `.proto` files, each under the name that it is imported by; made if missing. It alone is
            then the include path of any compiler. What compilers bring themselves, `google/protobuf`, is left out.
            Default: none.
        descriptor_set: The file for one `google.protobuf.FileDescriptorSet` that holds everything, imports first, with
            comments: for grpcurl (`-protoset`) and for gateways. Default: none.
        include: Source roots. Default: each file's own, found from its `package` line.

    Returns:
        The paths of the `.proto` files, relative to `out`, sorted.

    Raises:
        CompileError: A file is missing or wrong, cannot be read or written, or a needed package is not installed.
    """
    with file_errors():
        return _export(list(files), out, descriptor_set, include)


def _export(files: list[Path], out: Path | None, descriptor_set: Path | None, include: Sequence[Path]) -> list[Path]:
    root = longshore_root()
    ours = [path for pattern in _OURS for path in sorted(root.glob(pattern))]
    with tempfile.TemporaryDirectory(prefix="longshore-export-") as scratch_name:
        scratch = Path(scratch_name)
        sources = find_sources([*files, *ours], [*include, root], scratch)
        names, roots, arguments, described = sources
        names.append(_DETAILS)
        image = scratch / "image.binpb"
        protoc([*arguments, "--include_imports", f"--descriptor_set_out={image}", *names], sources)
        staged = scratch / "out"
        for name, path in closure(names, roots).items():
            if path is not None and not name.startswith(_COMPILERS_OWN):
                _put(staged / name, path.read_bytes())
        validate = []
        if described:
            validate = _up_to(VALIDATE, image)
            _put(staged / VALIDATE, write_proto(validate[-1], validate[:-1]).encode())
        # From nothing but what is given out: whatever is missing there is found here.
        alone = scratch / "alone.binpb"
        protoc([f"-I{staged}", "--include_imports", "--include_source_info", f"--descriptor_set_out={alone}", *names])
        if described and _up_to(VALIDATE, alone)[-1] != validate[-1]:
            raise CompileError(f"{VALIDATE} of the installed protovalidate cannot be written as text; add it with -I")
        if descriptor_set is not None:
            _put(descriptor_set, alone.read_bytes())
        return [] if out is None else install(staged, out)


def _up_to(name: str, image: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    """A file of an image without its comments, last, and those before it, among which is all that it imports."""
    files = list(read_image(image).file)
    found = files[: [file.name for file in files].index(name) + 1]
    found[-1].ClearField("source_code_info")
    return found


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
