"""`longshore signal`: say something to an operation that runs."""

from __future__ import annotations

import click

from longshore.v1 import operations_service_pb2 as pb
from longshore_client.cli.app import did_you_mean
from longshore_client.cli.as_json import print_json, snapshot_dict
from longshore_client.cli.data import read_data, to_message
from longshore_client.cli.session import Session, operation_name, with_session
from longshore_client.cli.text import shown

_EPILOG = """\b
Examples:
  longshore signal orders-process-ord_123 approve -d '{"by": "ada"}'
  longshore signal operations/orders-process-ord_123 approve -d @decision.json --id decision-7
"""


@click.command("signal", epilog=_EPILOG)
@click.argument("name")
@click.argument("signal")
@click.option("-d", "--data", metavar="JSON", default="{}", help="The payload: JSON, @FILE, or - for stdin.")
@click.option("--id", "signal_id", metavar="KEY", help="The same key is the same signal, however often it is sent.")
@with_session
async def signal(session: Session, name: str, signal: str, data: str, signal_id: str | None) -> None:
    """Send SIGNAL to the operation NAME. Its contract says which signals there are: see `longshore types`.

    The signal is durable when this returns; the handler takes it when it comes to it, each one once, in order.
    """
    values = read_data(data)
    calls = session.channel.calls
    snapshot = await session.channel.invoke(calls.get, pb.GetRequest(name=operation_name(name)))
    info = await session.channel.invoke(calls.get_type, pb.GetTypeRequest(type=snapshot.type))
    declared = [item.name for item in info.contract.signals]
    if signal not in declared:
        known = f"it takes {', '.join(declared)}" if declared else "it takes none"
        raise click.UsageError(f"{signal!r} is no signal of {info.type}: {known}{did_you_mean(signal, declared)}")
    payload = to_message(session, values, (await session.types.payloads(info))[signal])
    handle = await session.types.attach(snapshot.name, snapshot.type)
    sent = await handle.signal(signal, payload, signal_id=signal_id)
    if session.json:
        print_json(snapshot_dict(await handle.get(), session.types))
    else:
        click.echo(shown(f"{signal} is signal {sent.number} of {handle.name}"))
        if sent.duplicate:
            click.echo("it had been accepted before", err=True)
