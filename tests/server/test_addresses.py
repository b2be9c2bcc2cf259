"""Addresses that cannot be listened on: all of them are said, before anything is opened."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore_server.rpc.addresses import ListenError, check
from tests.conftest import Lab

IN_USE = "it is in use, perhaps by another server"


@contextlib.contextmanager
def taken() -> Iterator[str]:
    """An address that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_second_server_is_told_of_all_that_is_taken_and_makes_nothing(tmp_path: Path) -> None:
    with taken() as calls, taken() as metrics:
        second = Lab(tmp_path / "data", listen=(calls, f"unix:{tmp_path}/no/s"), metrics=metrics)
        with pytest.raises(ListenError) as caught:
            await second.start()
    assert str(caught.value).split("; nor on ") == [
        f"cannot listen on {calls}: {IN_USE}; choose another with --listen",
        f"unix:{tmp_path}/no/s: the directory {tmp_path}/no does not exist",
        f"{metrics} for metrics: {IN_USE}; choose another with --metrics, or off for none",
    ]
    assert not (tmp_path / "data").exists()


def test_an_address_of_another_machine() -> None:
    with pytest.raises(
        ListenError, match=re.escape("192.0.2.1:50051: it is no address of this machine; choose another")
    ):
        check(["192.0.2.1:50051"], "")


def test_one_address_of_a_name_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def places(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (place, port)) for place in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", places)
    with taken() as first:
        check([f"name:{first.rpartition(':')[2]}"], "")


def test_what_is_free_and_what_nobody_can_tell_is_not_refused(tmp_path: Path) -> None:
    with taken() as address:
        pass
    check([address, "127.0.0.1:0", f"{'no' * 40}.invalid:1", f"unix:{tmp_path}/s"], "")


def test_a_family_that_the_machine_lacks_and_a_port_by_name_are_left_to_who_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without(family: int, kind: int) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    check(["127.0.0.1:http"], "")
    monkeypatch.setattr(socket, "socket", without)
    check(["[::]:50051"], "")
