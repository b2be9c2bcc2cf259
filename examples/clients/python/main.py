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


if __name__ == "__main__":
    address, story, *arguments = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        getattr(Stories(channel), story)(*arguments)
