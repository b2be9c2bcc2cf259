"""`longshore retry` and `delete`: operations that have ended."""

from __future__ import annotations

import click

from longshore_client.cli.app import EXIT_CODES
from longshore_client.cli.as_json import print_json
from longshore_client.cli.follow import attach, started
from longshore_client.cli.session import SECONDS, Session, operation_name, with_session
from longshore_client.cli.text import shown
from longshore_client.operation import OperationHandle

_RETRY_EPILOG = f"""\b
Examples:
  longshore retry orders-process-ord_123 --watch
  longshore retry operations/orders-process-ord_123 --request-id again-7
  longshore retry orders-process-ord_123 --keep-steps --wait

{EXIT_CODES}"""

_DELETE_EPILOG = """\b
Examples:
  longshore delete orders-process-ord_123
  longshore ls --filter 'state=FAILED' --all --json | jq -r .uid | xargs longshore delete
"""


@click.command("retry", epilog=_RETRY_EPILOG)
@click.argument("name")
@click.option("--watch", is_flag=True, help="Show progress and output, and print the result.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="The longest wait; implies --wait.")
@click.option("--request-id", metavar="KEY", help="The same key gives the same new operation.")
@click.option("--keep-steps", is_flag=True, help="Go on at the step that failed: do not do again what is completed.")
@with_session
async def retry(
    session: Session, name: str, watch: bool, wait: bool, timeout: float | None, request_id: str | None,
    keep_steps: bool,
) -> int | None:  # fmt: skip
    """Start the operation NAME, which has ended, once more, and print the name of the new one.

    The new one has the same input and labels; its snapshot says which one it repeats. A name that is made from the
    input then means the new one.
    """
    handle = await (await attach(session, name)).retry(request_id=request_id, keep_steps=keep_steps)
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
