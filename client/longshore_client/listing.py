"""Finding operations of one type: pages of them as one stream, and how many there are."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from longshore.v1 import operations_service_pb2 as pb
from longshore_client.state import OutputT, ProgressT, ResultT, State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from longshore_client.channel import Channel
    from longshore_client.codec import Codec
    from longshore_client.snapshot import Snapshot

_PAGE = 200


async def list_operations(
    channel: Channel, codec: Codec[ProgressT, OutputT, ResultT], filter: str, *, oldest_first: bool
) -> AsyncGenerator[Snapshot[ProgressT, ResultT], None]:
    """Yield where each operation of a filter stands, page after page; all of them have the codec's type."""
    request = pb.ListRequest(
        filter=filter, page_size=_PAGE, order_by="create_time" if oldest_first else "create_time desc"
    )
    while True:
        page = await channel.invoke(channel.calls.list, request)
        for snapshot in page.operations:
            yield codec.snapshot(snapshot)
        request.page_token = page.next_page_token
        if not request.page_token:
            return


async def count_operations(channel: Channel, filter: str) -> Counter[State]:
    """Return how many operations of a filter there are in each state."""
    response = await channel.invoke(channel.calls.count, pb.CountRequest(filter=filter))
    counts: Counter[State] = Counter()
    for entry in response.counts:
        counts[State(entry.state)] += entry.count
    return counts


def of_type(type_name: str, filter: str) -> str:
    """Narrow a filter to one operation type."""
    return f'type="{type_name}" AND {filter}' if filter else f'type="{type_name}"'
