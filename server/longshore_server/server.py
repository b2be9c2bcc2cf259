"""The server: assembles contracts, store, engine and listener, and takes them down in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from longshore_server.auth.authentication import Authentication
from longshore_server.auth.files import FileError
from longshore_server.auth.identity import Authenticator
from longshore_server.auth.jwt import issuers_problem
from longshore_server.auth.mtls import CertificateNames
from longshore_server.auth.tls import Certificates
from longshore_server.auth.tokens import TokenFile
from longshore_server.clock import SECOND, Clock, SystemClock
from longshore_server.config import Config, ConfigError
from longshore_server.contract import loading
from longshore_server.contract.gates import read_capabilities
from longshore_server.contract.source import ContractError, Source, hint_or_all
from longshore_server.engine.engine import Engine, Limits
from longshore_server.engine.host import Operations
from longshore_server.handler.texts import counted
from longshore_server.instances.declaring import Declaring
from longshore_server.instances.host import in_lifespan
from longshore_server.jobs.declaring import DeclaringJobs
from longshore_server.rpc import addresses
from longshore_server.rpc.addresses import ListenError, metrics_refusal
from longshore_server.rpc.authorization import ADMIN, PROVIDER
from longshore_server.rpc.listener import Listener
from longshore_server.rpc.unix_socket import Rights, group_number
from longshore_server.store.mutations import MarkPlace
from longshore_server.store.outbox import Emission
from longshore_server.telemetry import tracing
from longshore_server.telemetry.delivery import Deliveries
from longshore_server.telemetry.metrics import MetricsServer
from longshore_server.telemetry.sinks import EventSink
from longshore_server.tracer import Tracer
from longshore_server.transfers.stores.base import Store
from longshore_server.transfers.stores.settings import check_name

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

log = logging.getLogger(__name__)

_NO_LIFESPAN = "write an `async def` with one `yield`, and @contextlib.asynccontextmanager above it"

Lifespan = Callable[["Server"], AbstractAsyncContextManager[Any]]


class Server(DeclaringJobs, Declaring):
    """Services, and what they need while they run.

    Args:
        services: instances of classes derived from generated bases, for example `Orders()`.
        lifespan: called with the server, gives an async context manager around its life; what that yields reaches
            handlers as `op.services`.
        authenticators: further ways to find out who calls, asked in this order and before those that the
            configuration names. With none of either everyone is the local principal, who may do everything.
        tracer_provider: whose OpenTelemetry spans the server makes. Default: the program's, if it has set one by the
            time that the lifespan has begun.
        stores: where the bytes of operations are, by the name that contracts use. Those of the configuration come
            before them.
        sinks: where lifecycle events of jobs and instances go, by names that stay the same. Those of the configuration
            come before them.

    One without services runs what `job`, `recurring`, `debounce` and `task` declare; one without anything cannot run.

    Raises `ContractError` when a contract cannot be enforced, `ValueError` for what cannot name a store or a sink, and
    `TypeError` for what cannot be one, nor a lifespan or an authenticator.
    """

    def __init__(
        self, *services: object, lifespan: Lifespan | None = None, authenticators: Sequence[Authenticator] = (),
        tracer_provider: TracerProvider | None = None, stores: Mapping[str, Store] | None = None,
        sinks: Mapping[str, EventSink] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        for name in (*(stores or {}), *(sinks or {})):
            check_name(name)
        _check_all("stores", (stores or {}).values(), Store)
        _check_all("sinks", (sinks or {}).values(), EventSink)
        _check_all("authenticators", authenticators, Authenticator)
        if lifespan is not None:
            _check_lifespan(lifespan)
        self.services = services
        self.lifespan = lifespan
        self.authenticators = tuple(authenticators)
        self.tracer_provider = tracer_provider
        self.config = Config()
        """The configuration of the run that is under way, or the defaults."""
        self.operations = Operations()
        """Starts and finds operations from the service's own code."""
        self.stores: Mapping[str, Store] = dict(stores or {})
        """For the service's own code; usable while the server runs, and with those of its configuration."""
        self.sinks: Mapping[str, EventSink] = dict(sinks or {})
        # Read at once, so that a wrong contract is found where the server is written.
        loading.load(services, default_timeout=SECOND, authenticated=bool(authenticators))

    @contextlib.asynccontextmanager
    async def run(self, config: Config | None = None, *, clock: Clock | None = None) -> AsyncIterator[Running]:
        """Serve until the block is left, then stop in good order.

        Raises `ConfigError`, `ContractError`, `StoreError` or `ListenError`.
        """
        async with Running(self, config or Config(), clock or SystemClock()) as running:
            yield running


class Running:
    """A server that serves, from the begin of the block that it manages to the end, or from `start` to `stop`.

    To make one opens nothing; raises `ConfigError` or `ContractError`.
    """

    def __init__(
        self, server: Server, config: Config, clock: Clock, chance: Callable[[], float] = random.random
    ) -> None:
        self.config = config
        self.clock = clock
        self._server = server
        known = {ADMIN, PROVIDER, *_capabilities(server)}
        self._tls, authenticators = _read_files(config, clock, known)
        authenticators = [*server.authenticators, *authenticators]
        if (problem := issuers_problem(authenticators)) is not None:
            raise ConfigError(problem)
        config.check_exposure(authenticated=bool(authenticators))
        self._authentication = Authentication(authenticators, clock) if authenticators else None
        self.stores = {**server.stores, **_make_stores(config)}
        """By name."""
        types = loading.load(
            server.services, default_timeout=int(config.default_timeout * SECOND),
            authenticated=bool(authenticators), stores=self.stores,
        )  # fmt: skip
        if not (types or server.queues or server.definitions):
            raise ContractError(
                "the server has nothing to run: pass it a service whose contract declares operations, or declare a "
                "job, a recurring, a debounce or a task"
            )
        limits = Limits(
            concurrency=config.concurrency, concurrency_per_owner=config.concurrency_per_owner,
            queue=config.queue, queue_per_owner=config.queue_per_owner,
            max_live=config.max_live, max_live_per_owner=config.max_live_per_owner, max_events=config.max_events,
            max_input=config.max_input, max_payload=config.max_payload, max_watches=config.max_watches,
            max_watches_per_owner=config.max_watches_per_owner, max_transfers=config.max_transfers,
            max_transfers_per_owner=config.max_transfers_per_owner,
            retention=int(config.default_retention * SECOND), log_retention=int(config.log_retention * SECOND),
        )  # fmt: skip
        self._tracer = Tracer()
        sinks = {**server.sinks, **_make_sinks(config, _levels(server))}
        emission = Emission(
            tuple(sinks), any(sink.payloads for sink in sinks.values()), config.max_outbox, config.max_outbox_bytes
        )
        self.engine = Engine(
            types, config.data, clock, limits, chance, self._tracer, self.stores, server.definitions.values(),
            server.queues.values(), emission,
        )  # fmt: skip
        self.deliveries = Deliveries(sinks, self.engine.store, clock)
        self.engine.on_events = self.deliveries.wake
        self.listener = Listener(
            self.engine, authentication=self._authentication, tls=self._tls, health=config.health,
            reflection=config.reflection, max_input=config.max_input, max_payload=config.max_payload,
            rights=_socket_rights(config),
        )  # fmt: skip
        self.recovered = 0
        """How many operations of the last server go on."""
        self.metrics: MetricsServer | None = None
        self.failed: asyncio.Event = asyncio.Event()
        """Set when the store has stopped: the server can do nothing more."""
        self._stack = AsyncExitStack()
        self._stopped = False

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the real ports."""
        return self.listener.addresses

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the store, listen, run the lifespan, recover, then accept work. In that order, so that health can be
        asked from the first moment and nobody is refused for a reason that a second later is gone."""
        addresses.check(self.config.listen, self.config.metrics_address)
        try:
            self._stack.push_async_callback(self.engine.close)
            await self.engine.open()
            self.engine.store.writer.on_failure = self._store_failed
            marks = await self.engine.store.marks()
            for name, store in self.stores.items():
                self._stack.push_async_callback(store.stop)
                mark = await store.start(name, self.config.data / "stores" / name, marks.get(name, ""))
                if mark and name not in marks:
                    await self.engine.store.writer.submit(MarkPlace(name, mark))
            self._stack.callback(setattr, self._server, "stores", self._server.stores)
            self._server.stores = self.stores
            if self.config.metrics_address:
                try:
                    self.metrics = MetricsServer(
                        self.engine, self.listener.calls, self.deliveries, self.config.metrics_address
                    )
                except OSError as error:
                    raise ListenError(metrics_refusal(self.config.metrics_address, error.strerror)) from None
                self._stack.callback(self.metrics.stop)
            outside = tracing.ambient()
            self._stack.push_async_callback(self.listener.stop, 1.0)
            await self.listener.start(self.config.listen)
            self._server.config = self.config
            self._server.operations.attach(self.engine)
            services = None
            if self._server.lifespan is not None:
                beginning = in_lifespan.set(True)
                try:
                    services = await self._stack.enter_async_context(_live(self._server, self._server.lifespan))
                finally:
                    in_lifespan.reset(beginning)
            # Only here: the lifespan may be what sets OpenTelemetry up.
            self._tracer.backend = tracing.backend(self._server.tracer_provider, outside)
            self._stack.push_async_callback(self.deliveries.stop)
            self.deliveries.start()
            self.recovered = await self.engine.recover(services)
            await self.listener.health.set(serving=True)
        except BaseException:
            await self._stack.aclose()
            raise

    async def reload(self) -> None:
        """Read the files of tokens, keys and certificates again, now. One that cannot be used changes nothing."""
        if self._tls is not None:
            await asyncio.to_thread(self._tls.update, force=True)
        if self._authentication is not None:
            await self._authentication.refresh(force=True)
        log.info("everything that says who may call is read again")

    async def stop(self) -> None:
        """Health NOT_SERVING, no new starts, watches end, attempts drain, then everything closes. Repeatable."""
        if self._stopped:
            return
        self._stopped = True
        await self.listener.health.set(serving=False)
        # Without a store nothing that a handler still does can be kept.
        drain = 0.0 if self.failed.is_set() else self.config.drain
        left = await self.engine.stop(self.clock.now() + int(drain * SECOND))
        if left:
            log.info("%s left to the next start", counted(left, "operation"))
        await self._stack.aclose()
        self._server.operations.attach(None)

    async def abandon(self) -> None:
        """For tests: end like a process that was killed, writing nothing more."""
        self._stopped = True
        self.engine.abandon()
        await self.listener.stop(0)
        await self._stack.aclose()
        self._server.operations.attach(None)

    def _store_failed(self, _: str) -> None:
        self.engine.drain()
        self.failed.set()


def _check_all(what: str, values: Iterable[object], kind: type) -> None:
    """Raises `TypeError` for a value that is none of this kind."""
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{what}: {value!r} is no {kind.__name__}: give an instance of a class derived from it")


def _check_lifespan(lifespan: Any) -> None:
    """Raises `TypeError` for what is certain to give no async context manager."""
    if isinstance(lifespan, AbstractAsyncContextManager) or not callable(lifespan):
        raise TypeError(f"lifespan: pass the function itself, not {lifespan!r}")
    # What another decorator makes of a function is known once it is called.
    decorated = getattr(lifespan, "__globals__", None) is vars(contextlib)
    function = inspect.unwrap(lifespan) if decorated else lifespan
    undecorated = not decorated and inspect.isasyncgenfunction(function)
    if undecorated or inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"lifespan: {_NO_LIFESPAN}")
    with contextlib.suppress(ValueError):  # not every callable says what it takes
        try:
            inspect.signature(lifespan).bind(None)
        except TypeError:
            raise TypeError("lifespan: it must take one argument, the server") from None


def _live(server: Server, lifespan: Lifespan) -> AbstractAsyncContextManager[Any]:
    """What a lifespan gives. Raises `ContractError` for what is no async context manager."""
    life = lifespan(server)
    if isinstance(life, AbstractAsyncContextManager):
        return life
    raise ContractError(f"the lifespan gives {life!r}: {_NO_LIFESPAN}")


def _capabilities(server: Server) -> set[str]:
    """Those that contracts declare or, where they declare none, those that definitions of instances ask for.

    Raises `ContractError` for a definition that asks for another.
    """
    declared = {name for service in server.services for name in read_capabilities(Source(service))}
    calls = {definition.call: definition for definition in server.definitions.values() if definition.call is not None}
    for call, definition in calls.items():
        if declared and call not in declared:
            problem = f"capability {call!r} is declared by no service{hint_or_all(call, declared)}"
            raise ContractError(f"{definition.kind.name.lower()} {definition.name!r}, call: {problem}")
    return declared or set(calls)


def _socket_rights(config: Config) -> Rights:
    """Who may call by Unix sockets. Raises `ConfigError`."""
    try:
        group = group_number(config.socket_group) if config.socket_group else None
    except KeyError:
        raise ConfigError(
            f"socket_group: this machine has no group {config.socket_group!r}; add it, or give the number of one"
        ) from None
    return Rights(int(config.socket_mode, 8), group)


def _make_stores(config: Config) -> dict[str, Store]:
    """Those that the configuration declares. Raises `ConfigError`."""
    found: dict[str, Store] = {}
    for settings in config.stores:
        try:
            found[settings.name] = settings.make()
        except ImportError:
            needed = 'it needs more packages: pip install "longshore-grpc[stores]"'
            raise ConfigError(f"stores: {settings.name}: {needed}") from None
    return found


def _levels(server: Server) -> dict[tuple[str, str], int]:
    """The least that is logged of each definition, by kind and name."""
    levels = {(kind.name.lower(), name): found.level for (kind, name), found in server.definitions.items()}
    return levels | {("job", name): queue.definition.level for name, queue in server.queues.items()}


def _make_sinks(config: Config, levels: Mapping[tuple[str, str], int]) -> dict[str, EventSink]:
    """Those that the configuration declares. Raises `ConfigError`."""
    found: dict[str, EventSink] = {}
    for settings in config.sinks:
        try:
            found[settings.name] = settings.make(levels)
        except ImportError:
            needed = 'it needs more packages: pip install "longshore-grpc[otel]"'
            raise ConfigError(f"sinks: {settings.name}: {needed}") from None
    return found


def _read_files(
    config: Config, clock: Clock, known: Collection[str]
) -> tuple[Certificates | None, list[Authenticator]]:
    """What the configuration says about who may call, from its files. `known`: the capabilities that contracts have.

    Raises `ConfigError`.
    """
    tls: Certificates | None = None
    found: list[Authenticator] = []
    setting = ""
    try:
        if config.tls_cert is not None and config.tls_key is not None:
            setting = "tls_cert"
            tls = Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)
            if config.tls_client_ca is not None:
                setting = "tls_client_ca"
                import cryptography.x509  # noqa: F401 - not at the first call
        if config.tokens is not None:
            setting = "tokens"
            found.append(TokenFile(config.tokens, clock, known))
        for issuer in config.issuers:
            setting = "jwt" if issuer in config.jwt else "jwt_keys"
            found.append(issuer.make(clock))
        if config.tls_identities is not None:
            setting = "tls_identities"
            found.append(CertificateNames(config.tls_identities, clock, known))
    except FileError as error:
        # The files of the listener are read together.
        listeners = [name for name in ("tls_cert", "tls_key", "tls_client_ca") if getattr(config, name) == error.path]
        raise ConfigError(f"{[*listeners, setting][0]}: {error}") from None
    except (ImportError, KeyError):
        raise ConfigError(f'{setting}: it needs more packages: pip install "longshore-grpc[auth]"') from None
    return tls, found
