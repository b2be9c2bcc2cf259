"""The port of a server that is down, which the next one listens on."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest

from longshore_server import Job, Server
from longshore_server.testing import Harness


@pytest.fixture(params=["127.0.0.1:0", "localhost:0"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    server = Server()

    @server.job("idle")
    async def idle(payload: int, job: Job[None]) -> None: ...

    return Harness(server, tmp_path, listen=(request.param,))


async def test_nobody_is_given_it_while_the_server_is_down(harness: Harness) -> None:
    async with harness.serve():
        address = harness.address
        await harness.stop()
        host, _, port = address.rpartition(":")
        family, kind, *_, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as other, pytest.raises(OSError, match="in use"):
            other.bind(where)
        for _ in range(2):
            await harness.start()
            assert harness.address == address
            async with grpc.aio.insecure_channel(address) as channel:
                await channel.channel_ready()
            await harness.crash()
