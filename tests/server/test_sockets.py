"""Unix sockets: a dead server's is taken over, a live one's is not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from longshore_server.rpc.listener import ListenError
from tests.conftest import Lab, State


async def test_a_live_servers_socket_is_not_taken(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'longshore.sock'}"
    first, second = Lab(tmp_path / "a", listen=(address,)), Lab(tmp_path / "b", listen=(address,))
    await first.start()
    with pytest.raises(ListenError, match="another server answers there"):
        await second.start()
    assert (await first.run()).state == State.STATE_COMPLETED
    await first.stop()
    await second.start()
    assert (await second.run()).state == State.STATE_COMPLETED
    await second.stop()


async def test_a_dead_servers_socket_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "longshore.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    lab = Lab(tmp_path / "a", listen=(f"unix:{path}",))
    await lab.start()
    assert (await lab.run()).state == State.STATE_COMPLETED
    await lab.stop()
