"""The program that has begun this server, such as `longshore dev`: it says when to open, and when to stand aside; its
end is the server's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import faulthandler
import os
import signal
import socket
import threading
from collections.abc import Callable

from longshore_server import mistakes

NO_FILES_FAULT = 78
"""With this a server ends whose start no change of the service's files would mend, where without a lifeline it is 2."""
_PATIENCE = 5.0
"""Seconds that a server may take to stop, beside those that its attempts have."""
_LAST_RESORT = 5.0
"""Seconds after that, in which this thread can say what is wrong."""


class Lifeline:
    """The server's end of a pair of sockets. It writes a byte when it has read its settings, and one each time that it
    waits to be told, which the other end does by a byte: to open, to stand aside, to open again, and so on.

    When that end is closed, and be it since its holder was killed, the server is asked to stop. One that cannot hear
    that, or that it is to stand aside, for a handler holds its event loop up, ends a while later, and says where that
    is.

    Args:
        descriptor: the open file of the server's end.
        drain: seconds that running attempts get to end.
    """

    def __init__(self, descriptor: int, drain: float) -> None:
        self.on_end: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGTERM)
        """Asks the server to stop; called in another thread. By itself it ends one that is still imported."""
        self._socket = socket.socket(fileno=descriptor)
        # A program that the service starts would keep it open beyond the server's end.
        self._socket.set_inheritable(False)
        self._drain = drain
        self._told: concurrent.futures.Future[None]
        self._waits = threading.Event()
        # A thread: it hears while the service is still imported, and while a handler holds the event loop up.
        threading.Thread(target=self._read, name="lifeline", daemon=True).start()
        self._say()

    async def turn(self) -> None:
        """Say that the server has come to where it waits to be told, and wait until it is."""
        told = self._told = concurrent.futures.Future()
        self._waits.set()
        self._say()
        await asyncio.shield(asyncio.wrap_future(told))

    def _say(self) -> None:
        with contextlib.suppress(ConnectionError):  # the thread hears of it, too
            self._socket.send(b"\n")

    def _read(self) -> None:
        while self._hears():  # to open
            if not self._hears():  # to stand aside
                break
            self._limit(self._waits)
        self.on_end()
        self._limit(threading.Event())

    def _hears(self) -> bool:
        """Whether the server was told to go on; False: the other end is closed."""
        try:
            told = bool(self._socket.recv(1))
        except ConnectionError:
            return False
        if told:
            self._waits.clear()
            self._told.set_result(None)
        return told

    def _limit(self, done: threading.Event) -> None:
        """End the process if it is not done in time."""
        # Should nothing of Python run at all, not even this thread.
        faulthandler.dump_traceback_later(self._drain + _PATIENCE + _LAST_RESORT, exit=True)
        if done.wait(self._drain + _PATIENCE):
            faulthandler.cancel_dump_traceback_later()
            return
        place = mistakes.running()
        hint = "a handler waits with await, or in a thread, as by asyncio.to_thread"
        why = (
            f"{place}: this holds the event loop up, so that the server cannot stop: {hint}" if place else "it is late"
        )
        os.write(2, f"error: {why}; it is ended as by a crash\n".encode())
        os._exit(1)
