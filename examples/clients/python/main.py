"""Orders and documents from Python, with grpcio and generated stubs alone: nothing of Longshore's own client.

python main.py ADDRESS STORY KEY [FILE]
"""

from __future__ import annotations

import sys

import grpc
from longrunning import LongRunning
from operations import Operations
from transfers import Transfers


class Stories(Operations, Transfers, LongRunning):
    """All that there are."""


# A connection that died in silence is noticed by pings alone; the core stops them itself where a caller only reads.
PINGS = [
    ("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000), ("grpc.http2.max_pings_without_data", 0),
]  # fmt: skip

if __name__ == "__main__":
    address, story, *arguments = sys.argv[1:]
    with grpc.insecure_channel(address, options=PINGS) as channel:
        getattr(Stories(channel), story)(*arguments)
