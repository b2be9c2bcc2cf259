"""`longshore retry` and `delete`: operations that have ended."""

from __future__ import annotations

import click

from longshore_client.cli.app import EXIT_CODES
from longshore_client.cli.as_json import print_json
from longshore_client.cli.follow import attach, started
from longshore_client.cli.session import SECONDS, Session, operation_name, with_session
from longshore_client.cli.text import shown
from longshore_client.operation import OperationHandle
from longshore_client.state import State

_RETRY_EPILOG = f"""\b
Examples:
  longshore retry orders-process-ord_123 --watch
  longshore retry operations/orders-process-ord_123 --request-id again-7
  longshore retry orders-process-ord_123 --keep-steps --wait
  longshore retry reports-daily --completed

{EXIT_CODES}"""

_DELETE_EPILOG = """\b
Examples:
  longshore delete orders-process-ord_123
  longshore ls --filter 'state=FAILED' --all --json | jq -r .uid | xargs longshore delete
"""

_ENDED = {State.COMPLETED: "had completed", State.FAILED: "had failed", State.CANCELLED: "was cancelled"}


@click.command("retry", epilog=_RETRY_EPILOG)
@click.argument("name")
@click.option("--watch", is_flag=True, help="Show progress and output, and print the result.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="The longest wait; implies --wait.")
@click.option("--request-id", metavar="KEY", help="The same key gives the same new operation.")
@click.option("--keep-steps", is_flag=True, help="Go on at the step that failed: do not do again what is completed.")
@click.option("--completed", is_flag=True, help="Also what has completed: all that it has done is done again.")
@with_session
async def retry(
    session: Session, name: str, watch: bool, wait: bool, timeout: float | None, request_id: str | None,
    keep_steps: bool, completed: bool,
) -> int | None:  # fmt: skip
    """Start the operation NAME, which has failed or was cancelled, once more, and print the name of the new one.

    The new one runs from the start, or with --keep-steps from the step that failed. It has the same input and labels;
    its snapshot says which one it repeats. A name that is made from the input then means the new one. What has
    completed is done again with --completed alone.
    """
    old = await attach(session, name)
    snapshot = await old.get()
    if snapshot.state is State.COMPLETED and not completed:
        raise click.UsageError(f"{shown(old.name)} has completed: give --completed to have it done again")
    handle = await old.retry(request_id=request_id, keep_steps=keep_steps)
    if handle.created and not session.json:
        where = "again, without the steps that are done" if keep_steps else "again from the start"
        click.echo(f"runs {where}: operations/{snapshot.uid} {_ENDED[snapshot.state]}", err=True)
    return await started(session, handle, watch=watch, wait=wait, timeout=timeout)


@click.command("delete", epilog=_DELETE_EPILOG)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@with_session
async def delete(session: Session, names: tuple[str, ...]) -> None:
    """Delete operations that have ended, each with its log, its input and its key."""
    for name in map(operation_name, names):
        await OperationHandle(session.channel, session.types.codec, name).delete()
        if session.json:
            print_json({"type": "deleted", "operation": name})
        else:
            click.echo(f"{shown(name)} is deleted")
