"""The gRPC server: which methods it serves, where it listens, and with which channel arguments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import grpc

from longshore_server.auth.authentication import Authentication
from longshore_server.auth.tls import Certificates, KeyPair
from longshore_server.engine.engine import Engine
from longshore_server.histogram import Histogram
from longshore_server.rpc import (
    bytestream,
    control,
    debounce,
    downloads,
    jobs,
    longrunning,
    operations,
    recurring,
    standard,
    task,
    transfers,
)
from longshore_server.rpc.addresses import ListenError, refusal
from longshore_server.rpc.boundary import Durations
from longshore_server.rpc.callers import Callers
from longshore_server.rpc.contracts import ContractServices
from longshore_server.rpc.unix_socket import Rights, path_of, placed
from longshore_server.tracer import UNRECORDED

OPTIONS: tuple[tuple[str, int], ...] = (
    # Two servers on one port would share its callers, on two stores: the second must fail to bind instead.
    ("grpc.so_reuseport", 0),
    # Bursts beyond the default are cancelled by the core in silence; our own admission answers them (grpc#34782).
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # And so are those that wait for half a minute until a busy loop takes them: how long that may be, callers say.
    ("grpc.server_max_unrequested_time_in_server", 3600),
    ("grpc.max_metadata_size", 16 * 1024),
    # How much of a stream is read ahead of its handler. By itself the core takes several MiB of a fast sender each.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    # Clients may ping while a watch is idle; the default counts two such pings as abuse and drops the connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A machine that lost its power says nothing: its watches would hold their places for the two hours of the default.
    ("grpc.keepalive_time_ms", 60_000),
    # What counts for these pings too, though `keepalive_timeout_ms` is what is documented.
    ("grpc.http2.ping_timeout_ms", 20_000),
)

USUAL = 4 << 20
"""The largest message of stock peers, in bytes."""
READ = 12 << 20
"""What is received at least, in bytes: a request that is several times too large is told so with details."""
ROOM = 1_250_000
"""What a message may have beside the largest input or payload, in bytes: names, labels, and some more, so that what is
a bit too large for an operation is small enough to be read, and refused with details."""


class _Router(grpc.GenericRpcHandler):
    """All methods by full path, in one dictionary."""

    def __init__(self, methods: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._methods.get(details.method)


class Listener:
    """A gRPC server over one engine.

    Args:
        engine: what it serves.
        authentication: finds out who calls; None: everyone is the local principal.
        tls: for every address that is no Unix socket; None: plain text.
        health: who may ask for it, `anyone` or `authenticated`.
        reflection: who may have it, `anyone`, `authenticated` or, with `off`, nobody.
        max_input: the largest input in bytes.
        max_payload: the largest result, progress, output or signal in bytes.
        rights: who may call by Unix sockets.
    """

    def __init__(
        self, engine: Engine, *, authentication: Authentication | None, tls: Certificates | None, health: str,
        reflection: str, max_input: int, max_payload: int, rights: Rights,
    ) -> None:  # fmt: skip
        contracts = sorted({type.name.rpartition("/")[0] for type in engine.types.values()})
        services = [
            *contracts, operations.SERVICE, control.SERVICE, longrunning.SERVICE, transfers.SERVICE, bytestream.SERVICE,
            jobs.SERVICE, recurring.SERVICE, debounce.SERVICE, task.SERVICE,
        ]  # fmt: skip
        self._tls = tls
        self._tracer = engine.tracer
        self._open_health = health == "anyone"
        self._callers = Callers(authentication, certificates=tls is not None and tls.value.client_ca is not None)
        self.health = standard.Health(services, engine.clock)
        self.lengths = _lengths(max_input, max_payload)
        self._server = grpc.aio.server(options=(*OPTIONS, *self.lengths.items()))
        methods = self._methods = dict(ContractServices(engine).methods())
        for service, found in (
            (operations.SERVICE, operations.OperationsService(engine).methods()),
            (control.SERVICE, control.OperationControlService(engine).methods()),
            (longrunning.SERVICE, longrunning.LongRunningOperations(engine).methods()),
            (transfers.SERVICE, transfers.Uploads(engine).methods() | downloads.Downloads(engine).methods()),
            (bytestream.SERVICE, bytestream.ByteStream(engine).methods()),
            (jobs.SERVICE, jobs.JobsService(engine).methods()),
            (recurring.SERVICE, recurring.RecurringService(engine).methods()),
            (debounce.SERVICE, debounce.DebounceService(engine).methods()),
            (task.SERVICE, task.TaskService(engine).methods()),
        ):
            methods.update((f"/{service}/{name}", method) for name, method in found.items())
        self.calls: dict[str, Durations] = {path: defaultdict(Histogram) for path in methods}
        """How long the calls of each method took, by its path and the code that they ended with."""
        self._server.add_generic_rpc_handlers((_Router(self.handlers()),))
        if reflection != "off":
            allowed = None if reflection == "anyone" else self._callers
            standard.add_reflection([*services, standard.HEALTH], self._server, allowed, engine.clock)
        self.addresses: list[str] = []
        """Where it listens, with the real ports."""
        self._rights = rights
        self._sockets: list[Path] = []

    def handlers(self, callers: Callers | None = None) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        """What answers the calls of each method but reflection, by path. `callers`: finds out who they are; default:
        as the listener itself does."""
        callers = callers or self._callers
        found = {
            path: method(self.calls[path], callers, partial(self._tracer.call, path))
            for path, method in self._methods.items()
        }
        # Probes come all the time: they are neither counted nor traced.
        asking = Callers(None, certificates=False) if self._open_health else callers
        for name, method in self.health.methods().items():
            found[f"/{standard.HEALTH}/{name}"] = method(defaultdict(Histogram), asking, lambda _: UNRECORDED)
        return found

    async def start(self, addresses: Iterable[str]) -> None:
        """Bind and begin to answer. Raises `ListenError`."""
        credentials = None if self._tls is None else _credentials(self._tls)
        for address in addresses:
            path, port = path_of(address), 0
            try:
                if path is not None:
                    with placed(path, self._rights) as temporary:
                        self._server.add_insecure_port(temporary)
                    self._sockets.append(path)
                elif credentials is None:
                    port = self._server.add_insecure_port(address)
                else:
                    port = self._server.add_secure_port(address, credentials)
            except RuntimeError:
                raise ListenError(refusal(address, "it is in use or not this machine's")) from None
            except OSError as error:
                raise ListenError(refusal(address, error)) from None
            self.addresses.append(address if path is not None else f"{address.rpartition(':')[0]}:{port}")
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Refuse new calls and give those under way `grace` seconds."""
        await self._server.stop(grace)
        for path in self._sockets:
            path.unlink(missing_ok=True)


def _lengths(max_input: int, max_payload: int) -> Mapping[str, int]:
    """The options for the largest messages. What comes is in memory before anybody has asked whose it is."""
    received = max(READ, max_input, max_payload)
    # A snapshot can hold an input, and the last progress beside the result.
    sent = max(USUAL, max_input + 2 * max_payload)
    return {"grpc.max_receive_message_length": received + ROOM, "grpc.max_send_message_length": sent + ROOM}


def _credentials(tls: Certificates) -> grpc.ServerCredentials:
    """Credentials that look at the files again for each new connection; streams that are open keep theirs."""

    given = tls.value

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        tls.update()
        if tls.value is given:
            return None
        given = tls.value
        return _configuration(given)

    # gRPC either verifies a client certificate or does not ask for one.
    needed = given.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        fetch,  # type: ignore[arg-type]  # None means no change, which the stub does not know
        require_client_authentication=needed,
    )


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], pair.client_ca)
