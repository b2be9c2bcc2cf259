"""`longshore upload` and `download`: the bytes of operations."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longshore_client.cli.app import EXIT_CODES
from longshore_client.cli.as_json import grant_dict, print_json
from longshore_client.cli.call import read_labels, takes_bytes
from longshore_client.cli.connection import command_line
from longshore_client.cli.data import read_data, to_message
from longshore_client.cli.follow import attach, follow
from longshore_client.cli.render import renderer
from longshore_client.cli.session import Session, with_session
from longshore_client.cli.text import movable, shown, size
from longshore_client.errors import OperationCancelled, OperationFailed
from longshore_client.grants import UploadState
from longshore_client.sending import MAX_PARTS

if TYPE_CHECKING:
    from longshore_client.grants import DownloadGrant, ReceiveProgress, SendProgress
    from longshore_client.snapshot import Snapshot
    from longshore_client.upload import PreparedTransfer, Upload

_FILES = click.Path().shell_complete
_UPLOAD_EPILOG = f"""\b
Examples:
  longshore upload FilesService/Upload report.pdf -d '{{"key": "incoming/report.pdf"}}'
  longshore upload FilesService/Upload disk.img -d @request.json --parts 4 --request-id nightly-7
  tar c data | longshore upload FilesService/Upload - -d '{{"key": "backups/data.tar"}}'
  longshore upload --resume operations/files-upload-7 report.pdf

{EXIT_CODES}"""

_DOWNLOAD_EPILOG = f"""\b
Examples:
  longshore download operations/reports-export-7 --to report.pdf
  longshore download downloads/0190c2a4-8f3e-7cc1-a2f5-3f6c1e2d9b10.2 --resume
  longshore download reports-export-7 --to - | tar t

{EXIT_CODES}"""


@click.command("upload", epilog=_UPLOAD_EPILOG)
@click.argument("operands", metavar="[TYPE] FILE", nargs=-1, required=True, shell_complete=_FILES)
@click.option("-d", "--data", metavar="JSON", help="The input: JSON, @FILE, or - for stdin.  [default: {}]")
@click.option("--resume", metavar="OPERATION", help="Go on with an operation that is there; without TYPE.")
@click.option("--parts", type=click.IntRange(1, MAX_PARTS), default=1, help="How many parts of it to send at once.")
@click.option("--request-id", metavar="KEY", help="The same key with the same input gives the same operation.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label to find it by; repeatable.")
@with_session
async def upload(
    session: Session,
    operands: tuple[str, ...],
    data: str | None,
    resume: str | None,
    parts: int,
    request_id: str | None,
    labels: tuple[str, ...],
) -> int:
    """Start an operation of TYPE, send FILE with it, and follow it to its end.

    The end of the type's name is enough where it is unique; FILE may be - for stdin. Broken connections and restarts of
    the server are bridged. Ctrl-C leaves what was sent at the server, and says how to go on: with a FILE, as a pipe can
    begin an upload and not go on with one.
    """
    if len(operands) != (1 if resume else 2):
        raise click.UsageError("give FILE alone with --resume" if resume else "give the TYPE and the FILE")
    file = operands[-1]
    if resume:
        if data is not None or request_id or labels:
            raise click.UsageError("--resume goes on with what was started: leave out -d, --request-id and --label")
        prepared = (await attach(session, resume)).upload(_source(file), parts=parts)
    else:
        if data == "-" == file:
            raise click.UsageError("-d and FILE cannot both be stdin")
        values, wanted_labels = read_data(data or "{}"), read_labels(labels)
        info = await session.types.operation_type(operands[0])
        if not takes_bytes(info):
            raise click.UsageError(f"{info.type} takes no bytes: start it with `longshore call`")
        method = await session.types.upload_method(info)
        request = to_message(session, values, info.input_type)
        prepared = method(request, request_id=request_id, labels=wanted_labels).transfer(_source(file), parts=parts)
    return await _send(session, prepared, file, parts)


async def _send(session: Session, prepared: PreparedTransfer[Any, Any, Any, Any], file: str, parts: int) -> int:
    def sent(progress: SendProgress) -> None:
        show.sent(progress)

    try:
        started = await prepared.on_transfer(sent).start()
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{file} cannot be sent: {_why(error)}") from None
    name = started.name
    show = renderer(session.types, as_json=session.json, name=name)
    done = False

    def come_back(last: int) -> str:
        if done:
            said, text = "Come back with", f"watch {name} --after {last}"
        elif file == "-":
            # A pipe cannot go on after what is durable already, a file can.
            said, text = "Come back with the same bytes in a FILE", f"upload --resume {name} FILE"
        else:
            # Cut in other parts it would be refused.
            text = f"upload --resume {name} {shlex.quote(file)}{f' --parts {parts}' if parts > 1 else ''}"
            said = "Come back with"
        return f"{name} goes on. {said}: {command_line(text)}"

    async def settle() -> None:
        nonlocal done
        await started.sent()
        done = True

    session.come_back = come_back(0)
    if not session.json:
        click.echo(shown(name), err=True)
        if found := _found(started):
            click.echo(found, err=True)
    tasks: list[asyncio.Task[Any]] = []
    try:
        if started.found.state is UploadState.COMMITTED:
            # An operation that has ended must not hide that these are other bytes than it has.
            await settle()
        following = asyncio.create_task(
            follow(
                session, started.operation, after=0, types=(), timeout=None, title=False, show=show,
                come_back=come_back,
            )
        )  # fmt: skip
        tasks += [following, asyncio.create_task(settle())]
        await _ended(started, following)
        return await following
    except OSError as error:
        raise click.ClickException(f"{file} cannot be sent: {_why(error)}; {session.come_back}") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        show.close()


def _found(started: Upload[Any, Any, Any, Any]) -> str:
    """What to say of an operation that others have begun, or this command before."""
    found = started.found
    if found.state is UploadState.COMMITTED:
        return f"it has all of its {size(found.committed_size)} already: nothing is sent"
    if found.state is UploadState.OPEN and found.committed_size:
        return f"it has {size(found.committed_size)} already: what follows is sent"
    return "" if started.operation.created else "it existed already"


async def _ended(started: Upload[Any, Any, Any, Any], following: asyncio.Task[int]) -> None:
    """Return when the operation has ended, or raise what keeps it from ever getting its bytes."""
    waiting = asyncio.create_task(started.wait())
    try:
        await asyncio.wait((waiting, following), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            await waiting
    except (OperationFailed, OperationCancelled):
        pass
    except Exception as error:
        # What the operation failed with is shown among its events.
        if not isinstance(error.__cause__, OperationFailed):
            raise
    finally:
        waiting.cancel()
        # It may have failed in this very moment, which is nothing to tell any more.
        await asyncio.gather(waiting, return_exceptions=True)


def _source(file: str) -> Any:
    # Without its buffer: a thread that reads it must not hold a lock when the program ends.
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer) if file == "-" else Path(file)


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


@click.command("download", epilog=_DOWNLOAD_EPILOG)
@click.argument("names", metavar="OPERATION|DOWNLOAD", nargs=-1, required=True)
@click.option(
    "--to", metavar="FILE", shell_complete=_FILES,
    help="Where to: a file, which is replaced if it is there, a folder, or - for stdout.  [default: the name that the "
    "service gives it, if there is no such file]",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the FILE.part that an earlier try has left.")
@with_session
async def download(session: Session, names: tuple[str, ...], to: str | None, resume: bool) -> None:
    """Fetch bytes that an operation offers. The digest of the whole is checked where the server knows it.

    The bytes are in FILE.part until they are complete. Ctrl-C leaves that, and says how to go on.
    """
    operation = name = names[0]
    if len(names) > 1:
        raise click.UsageError(f"say where to with --to: longshore download {name} --to {shlex.quote(names[1])}")
    if name.startswith("downloads/"):
        operation = name.removeprefix("downloads/").rpartition(".")[0]
    handle = await attach(session, operation)
    grant = _choose(await handle.get(), name)
    to, replaces = _place(to, grant)
    bars = None
    if movable() and not session.json:
        from longshore_client.cli.bars import Bars

        bars = Bars()
    again = command_line(f"download {grant.name} --to {shlex.quote(to)} --resume")
    session.come_back = f"{to}.part has what has come. Come back with: {again}" if _is_file(to) else ""

    def received(progress: ReceiveProgress) -> None:
        if session.json and to != "-":
            print_json({"type": "received", "download": grant.name, **progress._asdict()})
        elif bars is not None:
            bars.bytes("fetching", progress.received, progress.total)

    # Without its buffer: a thread that writes to a pipe must not hold a lock when the program ends.
    target: Any = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer) if to == "-" else Path(to)
    try:
        found = await handle.download(target, grant.name, resume=resume, on_transfer=received)
    except BrokenPipeError:
        raise  # whoever reads has had enough
    except BlockingIOError as error:
        raise click.ClickException(f"{to} cannot be written: {_why(error)}") from None  # that one goes on by itself
    except OSError as error:
        raise click.ClickException(f"{to} cannot be written: {_why(error)}{_left(session, to)}") from None
    finally:
        if bars is not None:
            bars.close()
    if to == "-":
        return
    if session.json:
        print_json({"type": "downloaded", "file": to, "download": grant_dict(found)})
    else:
        click.echo(f"{shown(to)}  {size(found.size or 0)}{'  (replaced)' if replaces else ''}", err=True)


def _place(to: str | None, grant: DownloadGrant) -> tuple[str, bool]:
    """Where it goes, and whether it takes the place of a file there."""
    if to is not None and (to == "-" or not Path(to).is_dir()):
        return to, to != "-" and Path(to).is_file()
    # Escape sequences in the name of a file would be there for whoever lists the folder.
    file = str(Path(to or "") / (shown(Path(grant.filename).name) or grant.name.partition("/")[2]))
    if Path(file).exists():
        # A name that a service gives must not replace what the user has.
        raise click.UsageError(f"{file} exists: give --to with another name, or with this one to replace it")
    return file, False


def _is_file(to: str) -> bool:
    """Whether the bytes become a file: not where they go through a pipe, or to a device."""
    return to != "-" and (Path(to).is_file() or not Path(to).exists())


def _left(session: Session, to: str) -> str:
    """How to go on with what has come, if any has."""
    return f"; {session.come_back}" if session.come_back and Path(f"{to}.part").is_file() else ""


def _choose(snapshot: Snapshot[Any, Any], name: str) -> DownloadGrant:
    """The download of a name, or the only one of an operation."""
    grants = snapshot.downloads
    found = [grant for grant in grants if name == grant.name or not name.startswith("downloads/")]
    if len(found) == 1:
        return found[0]
    if not grants and snapshot.state.terminal:
        raise click.UsageError(f"{name}: it has ended and offers nothing")
    if not grants:
        raise click.UsageError(f"{name}: there is nothing to fetch yet; `longshore watch` shows when there is")
    names = ", ".join(f"{grant.name}{f' ({grant.filename})' if grant.filename else ''}" for grant in grants)
    raise click.UsageError(f"name the one to fetch: {names}")
