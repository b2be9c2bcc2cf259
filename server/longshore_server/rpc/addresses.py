"""Addresses that cannot be listened on: found before anything is opened, all at once, and said with what to do."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable

from longshore_server.rpc import unix_socket

_BEGIN = "cannot listen on "
_REASONS = {
    errno.EADDRINUSE: "it is in use, perhaps by another server",
    errno.EADDRNOTAVAIL: "it is no address of this machine",
    errno.EACCES: "this user may not",
}


class ListenError(Exception):
    """An address cannot be listened on; the message says why and what to do."""


def check(addresses: Iterable[str], metrics: str) -> None:
    """Raises `ListenError` unless each address, and that of the metrics if there is one, can be listened on now."""
    problems = [refusal(address, problem) for address in addresses if (problem := _problem(address))]
    if metrics and (problem := _problem(metrics)):
        problems.append(metrics_refusal(metrics, problem))
    if problems:
        raise ListenError("; ".join([problems[0], *(f"nor on {p.removeprefix(_BEGIN)}" for p in problems[1:])]))


def refusal(address: str, problem: object) -> str:
    """The sentence of an address for callers."""
    ways_out = "" if unix_socket.path_of(address) else "; choose another with --listen"
    return f"{_BEGIN}{address}: {problem}{ways_out}"


def metrics_refusal(address: str, problem: object) -> str:
    """The sentence of an address for metrics."""
    return f"{_BEGIN}{address} for metrics: {problem}; choose another with --metrics, or off for none"


def _problem(address: str) -> str | None:
    """Why an address can certainly not be listened on."""
    path = unix_socket.path_of(address)
    if path is not None:
        try:
            unix_socket.check(path)
        except OSError as error:
            return str(error)
        return None
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError):
        return None  # whoever listens knows more names
    problems = [_binding(family, place) for family, _, _, _, place in found]
    # Of a name with several addresses one is enough.
    return problems[0] if all(problems) else None


def _binding(family: int, place: tuple[object, ...]) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None  # gRPC takes another family that the machine has
        return _REASONS.get(error.errno or 0, os.strerror(error.errno or 0))
    return None
