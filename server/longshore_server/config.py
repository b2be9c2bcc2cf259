"""The server's configuration: one frozen, validated value, built at the edge. Nothing else reads the environment."""

from __future__ import annotations

import dataclasses
import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from longshore_server.auth.files import FileError, read_toml
from longshore_server.auth.jwt import MAX_SKEW, JwtSettings, url_problem
from longshore_server.telemetry.sink_settings import SinkSettings
from longshore_server.transfers.stores.settings import StoreSettings

log = logging.getLogger(__name__)

SettingsT = TypeVar("SettingsT", JwtSettings, StoreSettings, SinkSettings)

BOUNDS: Mapping[str, tuple[float, float]] = {
    "concurrency": (1, 1_000_000), "concurrency_per_owner": (1, 1_000_000), "queue": (0, 10_000_000),
    "default_timeout": (0.001, 1_000_000_000),
    "default_retention": (0, 1_000_000_000), "drain": (0, 1_000_000),
    "max_events": (16, 1_000_000_000), "max_input": (1024, 64 << 20), "max_payload": (1024, 64 << 20),
    "queue_per_owner": (1, 10_000_000), "max_live": (1, 10_000_000), "max_live_per_owner": (1, 10_000_000),
    "max_watches": (1, 1_000_000), "max_watches_per_owner": (1, 1_000_000), "max_transfers": (1, 100_000),
    "max_transfers_per_owner": (1, 100_000), "jwt_skew": (0, MAX_SKEW),
    "log_retention": (0, 1_000_000_000), "max_outbox": (100, 100_000_000),
    "max_outbox_bytes": (1_000_000, 1_000_000_000_000),
}  # fmt: skip
"""The least and the most that a number may be."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "health": ("anyone", "authenticated"), "reflection": ("anyone", "authenticated", "off"),
    "socket_mode": ("0600", "0660", "0666"), "log_format": ("text", "json"),
    "log_level": ("debug", "info", "warning", "error"),
}  # fmt: skip
"""The words that a setting may be."""
# Each means nothing without the other.
_TOGETHER = (
    ("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert"),
    ("tls_identities", "tls_client_ca"),
    ("jwt_keys", "jwt_issuer"), ("jwt_keys", "jwt_audience"), ("jwt_issuer", "jwt_keys"), ("jwt_audience", "jwt_keys"),
)  # fmt: skip


OPTIONS: Mapping[str, str] = {"stores": "--store", "sinks": "--sink"}
"""The options of the command line that are called otherwise than their settings."""
_VARIABLE = "LONGSHORE_"
# What the other commands read: beside a server, these are no slips.
_OF_CALLERS = ("SERVER", "TOKEN", "TLS", "TLS_CA", "TLS_CLIENT_CERT", "TLS_CLIENT_KEY")
_MAX_SOCKET = 107
# What the name takes by which a socket is made, beside its place.
_SOCKET_NAME = 12


class Kind(NamedTuple):
    """What a setting is, by the annotation of its field."""

    name: str
    """For people, with its article."""
    toml: tuple[type, ...]
    """What it is in a TOML file."""
    make: Callable[[Any], Any]
    """Its value from what is given. Raises `KeyError`, `ValueError` or `OverflowError`."""


def _texts(given: Any) -> tuple[str, ...]:
    return tuple(given.split(",") if isinstance(given, str) else given)


def _path(given: Any) -> Path:
    # Python takes an empty path for the current folder.
    if not str(given) or "\0" in str(given):
        raise ValueError
    return Path(given)


def _truth(given: Any) -> bool:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[str(given).lower()]


def _named(given: Any) -> Mapping[str, Any]:
    """Stores or sinks by name: those of a TOML file as they are, `NAME=URL,...` and lists of these as tables."""
    if isinstance(given, Mapping):
        return given
    pairs = (text.partition("=") for text in (given.split(",") if isinstance(given, str) else given))
    return {name: {"url": url} for name, _, url in pairs}


def _issuers(given: Any) -> tuple[JwtSettings, ...]:
    """Those of a TOML file as they are, a text as what stands between the brackets of a TOML array."""
    if not isinstance(given, list):
        text = given if isinstance(given, str) else ", ".join(given)
        given = tomllib.loads(f"jwt = [{text}]")["jwt"]
    return tuple(_table(f"jwt: [{position}]", JwtSettings, options) for position, options in enumerate(given))


def _table(place: str, settings: type[SettingsT], options: Any, **known: Any) -> SettingsT:
    """What a table of the configuration says, `known` apart. Raises `ConfigError`."""
    kinds = {field.name: KINDS[str(field.type)] for field in dataclasses.fields(settings) if field.name not in known}
    if not isinstance(options, dict):
        raise ConfigError(f"{place}: {options!r} is not a table")
    for option, value in options.items():
        if option not in kinds:
            raise ConfigError(f"{place}: there is no option {option!r}; the options are {', '.join(kinds)}")
        if value.__class__ not in kinds[option].toml:
            raise ConfigError(f"{place}: {option}: {_shown(value)} is not {kinds[option].name}")
    try:
        return settings(**known, **options)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None


_TEXTS = "tuple[str, ...]"
KINDS: Mapping[str, Kind] = {
    "int": Kind("a whole number", (int,), int),
    "float": Kind("a number", (int, float), float),
    "bool": Kind("true or false", (bool,), _truth),
    "str": Kind("a text", (str,), str),
    "Path": Kind("a path", (str,), _path),
    "Path | None": Kind("a path", (str,), _path),
    _TEXTS: Kind("a list of texts", (list, str), _texts),
    "tuple[StoreSettings, ...]": Kind(
        "a table of stores",
        (dict,),
        lambda given: tuple(_table(f"stores: {n}", StoreSettings, o, name=n) for n, o in _named(given).items()),
    ),
    "tuple[SinkSettings, ...]": Kind(
        "a table of sinks",
        (dict,),
        lambda given: tuple(_table(f"sinks: {n}", SinkSettings, o, name=n) for n, o in _named(given).items()),
    ),
    "tuple[JwtSettings, ...]": Kind("a list of tables", (list,), _issuers),
}


class ConfigError(Exception):
    """The configuration is wrong; the message names the setting and says what it may be."""


@dataclass(frozen=True)
class Config:
    """Every setting of a server. From flags, then `LONGSHORE_*` variables, then a TOML file, then these defaults.

    Raises `ConfigError` when a value is out of bounds.
    """

    listen: tuple[str, ...] = ("127.0.0.1:50051",)
    """Where to listen: `HOST:PORT` (port 0: any free one), `[IPV6]:PORT` or `unix:PATH`."""
    socket_mode: str = "0600"
    """Who may open the sockets of `unix:PATH`: `0600` the server's user, `0660` its group too, `0666` everybody."""
    socket_group: str = ""
    """The group of these sockets, by name or number; the server's user must be a member of it. Empty: that of the
    server's user, or of the directory where that has the set-group-ID bit."""
    data: Path = Path("data")
    """The directory that holds everything; made if it is not there."""
    stores: tuple[StoreSettings, ...] = ()
    """Where the bytes of operations are, `NAME=URL` each; see below. They add up, and come before those of the server's
    own code."""
    sinks: tuple[SinkSettings, ...] = ()
    """Where lifecycle events of jobs and instances go, `NAME=URL` each; see below. They add up as stores do."""
    max_outbox: int = 100_000
    """How many lifecycle events are kept for sinks that have not got them; older ones are dropped."""
    max_outbox_bytes: int = 268_435_456
    """How many bytes of them; the latest one is kept in any case."""
    metrics: str = "127.0.0.1:9464"
    """Where Prometheus reads metrics, `HOST:PORT`; `off`: nowhere."""
    allow_unauthenticated: bool = False
    """Listen beyond this machine although nobody has to say who they are."""
    tokens: Path | None = None
    """File with the hashes of bearer tokens, which `longshore token` makes. None: no tokens."""
    jwt_keys: str = ""
    """Path or https URL of the JWKS that JSON Web Tokens are checked by; empty: no such tokens."""
    jwt_issuer: str = ""
    """What the `iss` of a JSON Web Token must be."""
    jwt_audience: str = ""
    """What the `aud` of a JSON Web Token must hold."""
    jwt_claim: str = "scope"
    """The claim that holds the capabilities: a text with spaces in between, or a list."""
    jwt_skew: float = 30.0
    """Seconds by which the issuer's clock may be off."""
    jwt: tuple[JwtSettings, ...] = ()
    """Issuers of JSON Web Tokens, where there are several; see below. The settings `jwt_*` above are one more."""
    tls_cert: Path | None = None
    """The listener's certificate, in PEM, with those between it and the root. None: plain text."""
    tls_key: Path | None = None
    """The private key of `tls_cert`, in PEM, not encrypted."""
    tls_client_ca: Path | None = None
    """Who signs the certificates that callers must then show, in PEM. None: callers have none."""
    tls_identities: Path | None = None
    """File that says which principal a name in a client certificate stands for. None: certificates identify nobody."""
    health: str = "anyone"
    """Who may ask for health."""
    reflection: str = "authenticated"
    """Who may use gRPC reflection, which grpcurl and `longshore call` need; `off`: nobody."""
    concurrency: int = 10_000
    """How many attempts of one operation type may run at once. Callers whose operations wait for that take turns."""
    concurrency_per_owner: int = 5_000
    """How many of these one caller's operations may have; the rest of them waits. As for `queue_per_owner`."""
    queue: int = 10_000
    """How many operations of one type may wait for a slot before starts are refused."""
    queue_per_owner: int = 5_000
    """How many of these may belong to one caller; without authentication callers are not told apart."""
    max_live: int = 100_000
    """How many operations may not have ended, those that no handler runs included."""
    max_live_per_owner: int = 20_000
    """How many of these may belong to one caller; as for `queue_per_owner`."""
    default_timeout: float = 86_400.0
    """Seconds that an operation may last when its contract says nothing."""
    default_retention: float = 2_592_000.0
    """Seconds that an ended operation, job or instance is kept when its contract or definition says nothing: 30 days;
    0: for ever."""
    log_retention: float = 604_800.0
    """Seconds that a line which a handler has logged is kept, or as long as its operation, job or instance if that is
    shorter: 7 days; 0: as long as that."""
    drain: float = 20.0
    """Seconds that running attempts get to end when the server stops."""
    max_events: int = 10_000
    """How many events of one operation are kept; older ones are dropped."""
    max_input: int = 1_000_000
    """The largest input in bytes."""
    max_payload: int = 1_000_000
    """The largest result, error, progress, output or signal in bytes. An answer may hold input, progress and result:
    with more than these defaults it may be larger than the 4 MiB that stock clients receive."""
    max_watches: int = 20_000
    """How many watches may be open at once, and calls that wait."""
    max_watches_per_owner: int = 5_000
    """How many of these may belong to one caller; as for `queue_per_owner`."""
    max_transfers: int = 1_000
    """How many uploads and downloads may be under way at once; each takes about 2 MiB of memory."""
    max_transfers_per_owner: int = 200
    """How many of these may belong to one caller; as for `queue_per_owner`."""
    log_format: str = "text"
    """`text` for people, `json` for machines."""
    log_level: str = "info"
    """The least that is logged."""

    def __post_init__(self) -> None:
        if not self.listen:
            raise ConfigError("listen: at least one address is needed, for example 127.0.0.1:50051")
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: {getattr(self, name)} is not between {low:,} and {high:,}")
        for name, known in WORDS.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}")
        for name, needed in _TOGETHER:
            if getattr(self, name) and not getattr(self, needed):
                raise ConfigError(f"{name}: it means nothing without {needed}; set both or neither")
        if "://" in self.jwt_keys and (problem := url_problem(self.jwt_keys)) is not None:
            raise ConfigError(f"jwt_keys: {problem}")
        for address in self.listen:
            self._check_address(address)
        self._check_sockets()
        if self.metrics_address and not _has_port(self.metrics_address):
            raise ConfigError(f"metrics: {self.metrics!r} is neither HOST:PORT nor off")

    @property
    def issuers(self) -> tuple[JwtSettings, ...]:
        """All issuers of JSON Web Tokens."""
        if not self.jwt_keys:
            return self.jwt
        one = JwtSettings(self.jwt_issuer, self.jwt_audience, self.jwt_keys, self.jwt_claim, self.jwt_skew)
        return (one, *self.jwt)

    @property
    def metrics_address(self) -> str:
        """Where metrics are read; empty: nowhere."""
        return "" if self.metrics == "off" else self.metrics

    def _check_address(self, address: str) -> None:
        unix = address.startswith("unix:")
        path = address.removeprefix("unix:").removeprefix("//")
        if not (path and "\0" not in path if unix else _has_port(address)):
            raise ConfigError(f"listen: {address!r} is neither HOST:PORT nor unix:PATH")
        folder = _MAX_SOCKET - _SOCKET_NAME
        if unix and (len(os.fsencode(path)) > _MAX_SOCKET or len(os.fsencode(Path(path).parent)) > folder):
            raise ConfigError(
                f"listen: {address!r} is too long: a socket's path may have {_MAX_SOCKET} bytes, its folder's {folder}"
            )

    def _check_sockets(self) -> None:
        if self.socket_group and self.socket_mode == "0600":
            raise ConfigError("socket_group: with socket_mode 0600 the group may not call; say 0660")
        if not any(address.startswith("unix:") for address in self.listen):
            for name in ("socket_group", "socket_mode"):
                if getattr(self, name) != getattr(Config, name):
                    raise ConfigError(f"{name}: it means nothing without a unix:PATH in listen")

    def check_exposure(self, *, authenticated: bool) -> None:
        """Refuse to be reached from other machines by callers who need not say who they are. Raises `ConfigError`."""
        if authenticated and self.allow_unauthenticated:
            raise ConfigError("allow_unauthenticated: authentication is configured, so it means nothing; leave it out")
        exposed = [a for a in self.listen if not a.startswith("unix:") and not _is_loopback(a.rpartition(":")[0])]
        if exposed and not authenticated and not self.allow_unauthenticated:
            raise ConfigError(
                f"listen: {exposed[0]} can be reached from other machines and nobody has to say who they are: "
                "configure authentication, listen on 127.0.0.1 or a Unix socket, or say --allow-unauthenticated if "
                "something in front checks callers"
            )
        if exposed and not authenticated:
            log.warning("%s can be reached from other machines, and nobody has to say who they are", exposed[0])
        elif exposed and self.tls_cert is None:
            log.warning("%s can be reached from other machines without TLS: tokens can be read on the way", exposed[0])


def load(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path | None = None,
    origin: dict[str, str] | None = None,
) -> Config:  # fmt: skip
    """Build the configuration; None or () among `flags` means not given. Raises `ConfigError`.

    `origin` is filled with where each setting stands that is given; see `located`.
    """
    values: dict[str, Any] = {}
    origin = {} if origin is None else origin
    fields = {field.name: field for field in dataclasses.fields(Config)}
    if file is not None:
        try:
            table = read_toml(file)
        except FileError as error:
            raise ConfigError(str(error)) from None
        for name, value in table.items():
            if name not in fields:
                close = get_close_matches(name, fields, n=1)
                known = f"did you mean {close[0]!r}?" if close else f"the settings are {', '.join(fields)}"
                raise ConfigError(f"{file}: there is no setting {name!r}; {known}")
            type = str(fields[name].type)
            texts = not isinstance(value, list) or type != _TEXTS or _are_texts(value)
            if value.__class__ not in KINDS[type].toml or not texts:
                raise ConfigError(f"{file}: {_wrong(name, type, value)}")
            values[name] = value
    origin.update(dict.fromkeys(values, str(file)))
    _check_variables(environment, [name.upper() for name in fields])
    for name in fields:
        variable, option = _variable(name), _option(name)
        given = [(environment[variable], variable)] if environment.get(variable) else []
        given += [(flags[name], option)] if flags.get(name) not in (None, ()) else []
        for value, source in given:
            if name in ("stores", "sinks") and name in values:
                values[name] = {**_named(values[name]), **_named(value)}
                origin[name] += f" with {source}"
            else:
                values[name], origin[name] = value, source
    try:
        return Config(**{name: _convert(name, str(fields[name].type), value) for name, value in values.items()})
    except ConfigError as error:
        raise ConfigError(located(error, origin)) from None


def located(error: Exception, origin: Mapping[str, str]) -> str:
    """What an error says that begins with the name of a setting, after where that stands, unless it is its absence that
    is wrong."""
    name, _, problem = str(error).partition(": ")
    where = origin.get(name)
    if where is None:
        return str(error)
    # An option or a variable of the same name says which setting it is.
    return f"{where}: {problem}" if where in (_option(name), _variable(name)) else f"{where}: {error}"


def _option(name: str) -> str:
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def _variable(name: str) -> str:
    return f"{_VARIABLE}{name.upper()}"


def _check_variables(environment: Mapping[str, str], names: list[str]) -> None:
    """Refuse what looks like a slip. Others may have variables that begin as ours do: Kubernetes gives every container
    some for each service, called by its name."""
    for variable in environment:
        name = variable.removeprefix(_VARIABLE)
        if name == variable or name in names or name in _OF_CALLERS:
            continue
        for close in get_close_matches(name, names, n=1, cutoff=0.75):
            raise ConfigError(f"{variable}: there is no such setting; did you mean {_VARIABLE}{close}?")


def _convert(name: str, type: str, value: Any) -> Any:
    try:
        return KINDS[type].make(value)
    except (KeyError, ValueError, OverflowError, RecursionError):
        raise _wrong(name, type, value) from None


def _wrong(name: str, type: str, value: Any) -> ConfigError:
    return ConfigError(f"{name}: {_shown(value)} is not {KINDS[type].name}")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:  # the keys of a TOML file may be as long as one likes
        return "what is nested so deeply"


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _has_port(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    return bool(colon) and "/" not in host and port.isdecimal() and port.isascii() and int(port) <= 65535


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "[::1]", "::1") or host.startswith("127.")
