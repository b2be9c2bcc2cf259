"""`longshore call`: start an operation from the terminal."""

from __future__ import annotations

import re

import click

from longshore.v1.annotations_pb2 import TransferDirection
from longshore.v1.operations_service_pb2 import OperationType
from longshore_client.cli.app import EXIT_CODES
from longshore_client.cli.data import read_data, to_message
from longshore_client.cli.follow import started
from longshore_client.cli.session import SECONDS, Session, with_session

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,62}")

_EPILOG = f"""\b
Examples:
  longshore call acme.orders.v1.OrdersService/Process -d '{{"order_id": "ord_123"}}' --watch
  longshore call OrdersService/Process -d @order.json --wait --timeout 30
  jq -c .order < event.json | longshore call Process -d - --request-id checkout-7 --label tenant=acme

{EXIT_CODES}"""


@click.command("call", epilog=_EPILOG)
@click.argument("operation_type", metavar="TYPE")
@click.option("-d", "--data", metavar="JSON", default="{}", help="The input: JSON, @FILE, or - for stdin.")
@click.option("--watch", is_flag=True, help="Show progress and output, and print the result.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="The longest wait; implies --wait.")
@click.option("--request-id", metavar="KEY", help="The same key with the same input gives the same operation.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label to find it by; repeatable.")
@with_session
async def call(
    session: Session,
    operation_type: str,
    data: str,
    watch: bool,
    wait: bool,
    timeout: float | None,
    request_id: str | None,
    labels: tuple[str, ...],
) -> int | None:
    """Start an operation of TYPE and print its name.

    The end of the type's name is enough where it is unique. With --watch or --wait the result is printed as JSON.
    """
    values = read_data(data)
    wanted_labels = read_labels(labels)
    info = await session.types.operation_type(operation_type)
    if takes_bytes(info):
        raise click.UsageError(f"{info.type} takes bytes: `longshore upload {operation_type} FILE` sends them with it")
    method = await session.types.method(info)
    request = to_message(session, values, info.input_type)
    handle = await method(request, request_id=request_id, labels=wanted_labels)
    return await started(session, handle, watch=watch, wait=wait, timeout=timeout)


def takes_bytes(info: OperationType) -> bool:
    """Whether callers send bytes with operations of a type."""
    return info.contract.transfer.direction == TransferDirection.TRANSFER_DIRECTION_SEND


def read_labels(labels: tuple[str, ...]) -> dict[str, str]:
    """The option `--label`, as often as it was given."""
    found = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals or not _LABEL_KEY.fullmatch(key):
            raise click.UsageError(f"--label {label!r}: write KEY=VALUE, the key in lower case, such as tenant=acme")
        found[key] = value
    return found
