"""The server's configuration: one frozen, validated value, built at the edge. Nothing else reads the environment."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ConfigError(Exception):
    """The configuration is wrong; the message names the setting and says what it may be."""


@dataclass(frozen=True)
class Config:
    """Every setting of a server. From flags, then `LONGSHORE_*` variables, then a TOML file, then these defaults.

    Raises `ConfigError` when a value is out of bounds.
    """

    listen: tuple[str, ...] = ("127.0.0.1:50051",)
    """Where to listen: `HOST:PORT` (port 0: any free one), `[IPV6]:PORT` or `unix:PATH`."""
    data: Path = Path("data")
    """The directory that holds everything; made if it is not there."""
    metrics: str = "127.0.0.1:9464"
    """Where Prometheus reads metrics, `HOST:PORT`; empty: nowhere."""
    allow_unauthenticated: bool = False
    """Listen beyond this machine although nobody has to say who they are."""
    reflection: bool = True
    """Serve gRPC reflection, which grpcurl and `longshore call` need."""
    concurrency: int = 10_000
    """How many attempts of one operation type may run at once, 1 to 1,000,000."""
    queue: int = 10_000
    """How many operations of one type may wait for a slot before starts are refused, 0 to 10,000,000."""
    default_timeout: float = 86_400.0
    """Seconds that an operation may last when its contract says nothing, more than zero."""
    drain: float = 20.0
    """Seconds that running attempts get to end when the server stops, zero or more."""
    max_events: int = 10_000
    """How many events of one operation are kept, at least 16; older ones are dropped."""
    max_input: int = 4 * 1024 * 1024 - 65_536
    """The largest input in bytes, 1 KiB to 64 MiB."""
    max_payload: int = 4 * 1024 * 1024 - 65_536
    """The largest result, progress or output in bytes, 1 KiB to 64 MiB; stock clients receive 4 MiB at most."""
    max_watches: int = 20_000
    """How many watches may be open at once, at least 1."""
    log_format: str = "text"
    """`text` for people, `json` for machines."""
    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    def __post_init__(self) -> None:
        if not self.listen:
            raise ConfigError("listen: at least one address is needed, for example 127.0.0.1:50051")
        bounds: dict[str, tuple[float, float]] = {
            "concurrency": (1, 1_000_000), "queue": (0, 10_000_000), "default_timeout": (0.001, 1e9), "drain": (0, 1e6),
            "max_events": (16, 1e9), "max_input": (1024, 64 << 20), "max_payload": (1024, 64 << 20),
            "max_watches": (1, 1_000_000),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: {getattr(self, name)} is not between {low:g} and {high:g}")
        if self.log_format not in ("text", "json"):
            raise ConfigError(f"log_format: {self.log_format!r} is neither text nor json")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ConfigError(f"log_level: {self.log_level!r} is none of debug, info, warning, error")
        for address in self.listen:
            self._check_address(address)
        if self.metrics and not _has_port(self.metrics):
            raise ConfigError(f"metrics: {self.metrics!r} is neither HOST:PORT nor empty")

    def _check_address(self, address: str) -> None:
        if address.startswith("unix:"):
            return
        host = address.rpartition(":")[0]
        if not _has_port(address):
            raise ConfigError(f"listen: {address!r} is neither HOST:PORT nor unix:PATH")
        if not self.allow_unauthenticated and not _is_loopback(host):
            raise ConfigError(
                f"listen: {address} can be reached from other machines and nobody has to say who they are: listen on "
                "127.0.0.1 or a Unix socket, or say --allow-unauthenticated if something in front checks callers"
            )


def load(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path | None = None) -> Config:
    """Build the configuration; None or () among `flags` means not given. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    fields = {field.name: field for field in dataclasses.fields(Config)}
    if file is not None:
        try:
            table = tomllib.loads(file.read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
        for name, value in table.items():
            if name not in fields:
                raise ConfigError(f"{file}: there is no setting {name!r}; the settings are {', '.join(fields)}")
            values[name] = value
    for name in fields:
        variable = f"LONGSHORE_{name.upper()}"
        if environment.get(variable):
            values[name] = environment[variable]
        if flags.get(name) not in (None, ()):
            values[name] = flags[name]
    return Config(**{name: _convert(name, str(fields[name].type), value) for name, value in values.items()})


def _convert(name: str, type: str, value: Any) -> Any:
    try:
        if type == "tuple[str, ...]":
            return tuple(value.split(",")) if isinstance(value, str) else tuple(str(item) for item in value)
        if type == "bool":
            if isinstance(value, bool):
                return value
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[str(value).lower()]
        return {"int": int, "float": float, "str": str, "Path": Path}[type](value)
    except (KeyError, ValueError, TypeError):
        raise ConfigError(f"{name}: {value!r} is not a value for it ({type})") from None


def _has_port(address: str) -> bool:
    _, colon, port = address.rpartition(":")
    return bool(colon) and port.isdecimal() and port.isascii() and int(port) <= 65535


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "[::1]", "::1") or host.startswith("127.")
