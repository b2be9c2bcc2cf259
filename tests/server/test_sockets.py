"""Unix sockets: a dead server's is taken over, a live one's is not; and only those may call by one who are meant to."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore_server.config import ConfigError
from longshore_server.rpc.addresses import ListenError
from longshore_server.rpc.unix_socket import Rights, placed
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


ROOT = os.geteuid() == 0
GROUP = 54321 if ROOT else os.getegid()
"""One that the server may give its sockets to."""
SOMEBODY, STRANGER = 54322, 54323
"""Users of no name: the first of the group."""

# Loaded as who runs the tests, who may read what the program is made of.
AS_ANOTHER = """
import os, socket, sys
from pathlib import Path
from longshore_server.rpc.unix_socket import Rights, placed
path, user, groups = Path(sys.argv[1]), int(sys.argv[2]), [int(group) for group in sys.argv[3:]]
if os.geteuid() == 0:
    os.setgroups(groups)
    os.setgid(user)
    os.setuid(user)
try:
    {code}
except OSError as error:
    print(error)
"""
CALL = "socket.socket(socket.AF_UNIX).connect(str(path))"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that all may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def another(code: str, path: Path, user: int, *groups: int) -> str:
    """What goes wrong when another user does it, where there can be one: else who runs the tests."""
    command = [sys.executable, "-c", AS_ANOTHER.format(code=code), str(path), str(user), *map(str, groups)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("settings", "mode", "somebody", "stranger"),
    [
        ({}, 0o600, False, False),
        ({"socket_mode": "0660", "socket_group": str(GROUP)}, 0o660, True, False),
        ({"socket_mode": "0666"}, 0o666, True, True),
    ],
    ids=["by itself", "group", "everybody"],
)
async def test_who_may_call_by_a_socket(
    folder: Path, tmp_path: Path, settings: dict[str, Any], mode: int, somebody: bool, stranger: bool
) -> None:
    path = folder / "s"
    lab = Lab(tmp_path / "data", listen=(f"unix:{path}",), **settings)
    await lab.start()
    try:
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == mode
        if "socket_group" in settings:
            assert found.st_gid == GROUP
        assert (await lab.run()).state == State.STATE_COMPLETED
        if ROOT:
            assert (another(CALL, path, SOMEBODY, GROUP) == "") is somebody
            assert (another(CALL, path, STRANGER) == "") is stranger
        assert list(folder.iterdir()) == [path], "the place where it was made has gone"  # noqa: ASYNC240
    finally:
        await lab.stop()
    assert not path.exists()


def test_a_socket_has_its_rights_before_it_is_in_its_place(folder: Path) -> None:
    path, before = folder / "s", os.umask(0)
    try:
        with placed(path, Rights(0o660, GROUP)) as address, socket.socket(socket.AF_UNIX) as server:
            made = Path(address.removeprefix("unix:"))
            server.bind(str(made))
            assert not path.exists()
            assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700, "nobody else comes near it"
    finally:
        os.umask(before)
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, GROUP)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "with placed(path, Rights(0o660, 0)) as made: socket.socket(socket.AF_UNIX).bind(made[5:])",
            "the server may not give it to the group 0: its user must be a member of it",
        ),
        ('with placed(Path("/s"), Rights(0o660)): pass', "the server may not write in /: Permission denied"),
    ],
    ids=["foreign group", "foreign folder"],
)  # fmt: skip
def test_what_the_server_may_not_do_is_refused(folder: Path, code: str, problem: str) -> None:
    path = folder / "s"
    assert another(code, path, STRANGER) == problem
    assert list(folder.iterdir()) == []


def test_a_socket_that_may_not_be_asked_is_not_taken(folder: Path) -> None:
    """Its server may be alive, and another user's."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        path.chmod(0)
        problem = another("with placed(path, Rights(0o600)): pass", path, STRANGER)
    assert problem == "whether another server answers there cannot be found out: Permission denied"
    assert path.is_socket()


async def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ListenError, match="there is a file of another kind"):
        await Lab(tmp_path / "data", listen=(f"unix:{path}",)).start()
    assert path.read_text() == "precious"


async def test_a_start_that_fails_leaves_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(ListenError, match=r"203\.0\.113\.1"):
        await Lab(tmp_path / "data", listen=(f"unix:{path}", "203.0.113.1:1"), allow_unauthenticated=True).start()
    assert not path.exists()


@pytest.mark.parametrize("group", ["no-such-group", str(2**32)])
async def test_a_group_that_is_not_there_is_refused(tmp_path: Path, group: str) -> None:
    lab = Lab(tmp_path / "data", listen=(f"unix:{tmp_path}/s",), socket_mode="0660", socket_group=group)
    with pytest.raises(ConfigError, match=f"socket_group: this machine has no group '{group}'"):
        await lab.start()
