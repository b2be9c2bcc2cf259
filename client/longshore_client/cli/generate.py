"""`longshore generate`: compile a team's contracts."""

from __future__ import annotations

import re
from pathlib import Path

import click

from longshore_client.cli.session import FAILED, fail

_EPILOG = """\b
Examples:
  longshore generate protos --out generated
  longshore generate protos/acme/orders/v1/orders.proto -I protos --out generated
  longshore generate protos --export build/protos
  longshore generate protos --descriptor-set build/contracts.binpb

For each file it writes the message classes (_pb2.py, _pb2.pyi), the gRPC stubs (_pb2_grpc.py) and, where the file
declares operations, the typed module (_longshore.py). What contracts import from longshore, google and buf/validate is
on the include path by itself.

\b
For other languages:
  --export           the contracts, the protos of Longshore and all that these import, as a tree that compiles alone
  --descriptor-set   the same as one file, with comments: grpcurl takes it by -protoset, gateways likewise
"""


@click.command("generate", epilog=_EPILOG)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where the Python goes.")
@click.option("--export", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where the protos go.")
@click.option(
    "--descriptor-set",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the descriptors go.",
)
@click.option(
    "-I",
    "--include",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="A source root.  [default: each file's own, found by its package]",
)
@click.option(
    "--stubs",
    type=click.Choice(["protoc", "mypy-protobuf", "none"]),
    default="protoc",
    show_default=True,
    help="Who writes the .pyi files.",
)
@click.option("--packages", is_flag=True, help="Write __init__.py and py.typed too.")
def generate(
    paths: tuple[Path, ...],
    out: Path | None,
    export: Path | None,
    descriptor_set: Path | None,
    include: tuple[Path, ...],
    stubs: str,
    packages: bool,
) -> None:
    """Compile the contracts in PATHS, files or folders, to Python, or export them for other languages."""
    from longshore_client.codegen.compile import CompileError, compile_protos
    from longshore_client.codegen.export import export_protos

    if out is None and export is None and descriptor_set is None:
        raise click.UsageError(
            "say where to write: --out DIR for Python, --export DIR or --descriptor-set FILE for other languages"
        )
    try:
        if out is not None:
            written = compile_protos(
                paths,
                out,
                include=include,
                stubs="none" if stubs == "none" else "mypy-protobuf" if stubs == "mypy-protobuf" else "protoc",
                packages=packages,
            )
            _report(out, written)
            _say_how_to_import(out, written)
        if export is not None or descriptor_set is not None:
            written = export_protos(paths, export, descriptor_set=descriptor_set, include=include)
            if export is not None:
                _report(export, written)
            if descriptor_set is not None:
                click.echo(descriptor_set)
    except CompileError as error:
        fail(str(error), FAILED)


def _say_how_to_import(out: Path, written: list[Path]) -> None:
    """One line, on stderr: what is written goes to stdout, for programs."""
    for path in written:
        if path.name.endswith("_longshore.py"):
            found = re.search(r"^class (\w+Client)\b", (out / path).read_text(encoding="utf-8"), re.MULTILINE)
            if found is not None:
                module = ".".join(path.with_suffix("").parts)
                click.echo(f"with {out} on the Python path: from {module} import {found[1]}", err=True)
                return
    click.echo(f"{out} must be on the Python path", err=True)


def _report(folder: Path, written: list[Path]) -> None:
    for path in written:
        click.echo(folder / path)
