"""A TCP port that stays a test's own while no server listens on it."""

from __future__ import annotations

import socket
import sys
import weakref


class Reservation:
    """A port for all servers that a test starts one after the other, for as long as this object lives.

    Between two servers the system may give a free port to anybody else on the machine, and the second server finds it
    in use. It gives nobody one that is bound and not listened on; on Linux who asks for this very port may listen on it
    nevertheless, as gRPC does. Elsewhere that is refused, and the port is only a free one.

    `address`: of the form `host:0`; with the port in place of 0 afterwards.
    """

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        host = address.rpartition(":")[0]
        family, kind, *_, where = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind)
        weakref.finalize(self, held.close)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(where)
        self.address = f"{host}:{held.getsockname()[1]}"
        if sys.platform != "linux":
            held.close()
