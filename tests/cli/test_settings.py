"""The settings of `longshore serve`: each can be given by an option, in the environment and in a file, and is shown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from longshore_server.command import serve
from longshore_server.config import Config, ConfigError, load


class Setting(NamedTuple):
    """A value other than the default, in the ways in which it is written."""

    value: Any
    flags: tuple[str, ...]
    text: str
    toml: str
    unit: str = ""
    others: Mapping[str, Any] = MappingProxyType({})
    """Settings without which this one means nothing."""


JWT = {"jwt_keys": "keys.json", "jwt_issuer": "i", "jwt_audience": "a"}
TLS = {"tls_cert": Path("c"), "tls_key": Path("k")}
CLIENTS = {**TLS, "tls_client_ca": Path("ca")}

SETTINGS = {
    "listen": Setting(
        ("127.0.0.1:1", "unix:s"), ("--listen", "127.0.0.1:1", "--listen", "unix:s"), "127.0.0.1:1,unix:s",
        '["127.0.0.1:1", "unix:s"]', "ADDRESS",
    ),
    "data": Setting(Path("other"), ("--data", "other"), "other", '"other"', "PATH"),
    "metrics": Setting("127.0.0.1:1", ("--metrics", "127.0.0.1:1"), "127.0.0.1:1", '"127.0.0.1:1"', "HOST:PORT"),
    "allow_unauthenticated": Setting(True, ("--allow-unauthenticated",), "true", "true"),
    "tokens": Setting(Path("t"), ("--tokens", "t"), "t", '"t"', "FILE"),
    "jwt_keys": Setting("k", ("--jwt-keys", "k"), "k", '"k"', "PATH|URL", JWT),
    "jwt_issuer": Setting("x", ("--jwt-issuer", "x"), "x", '"x"', "TEXT", JWT),
    "jwt_audience": Setting("x", ("--jwt-audience", "x"), "x", '"x"', "TEXT", JWT),
    "jwt_claim": Setting("x", ("--jwt-claim", "x"), "x", '"x"', "NAME"),
    "jwt_skew": Setting(7.5, ("--jwt-skew", "7.5"), "7.5", "7.5", "SECONDS"),
    "tls_cert": Setting(Path("x"), ("--tls-cert", "x"), "x", '"x"', "FILE", TLS),
    "tls_key": Setting(Path("x"), ("--tls-key", "x"), "x", '"x"', "FILE", TLS),
    "tls_client_ca": Setting(Path("x"), ("--tls-client-ca", "x"), "x", '"x"', "FILE", TLS),
    "tls_identities": Setting(Path("x"), ("--tls-identities", "x"), "x", '"x"', "FILE", CLIENTS),
    "health": Setting("authenticated", ("--health", "authenticated"), "authenticated", '"authenticated"'),
    "reflection": Setting("off", ("--reflection", "off"), "off", '"off"'),
    "concurrency": Setting(7, ("--concurrency", "7"), "7", "7", "N"),
    "queue": Setting(7, ("--queue", "7"), "7", "7", "N"),
    "queue_per_owner": Setting(7, ("--queue-per-owner", "7"), "7", "7", "N"),
    "max_live": Setting(7, ("--max-live", "7"), "7", "7", "N"),
    "max_live_per_owner": Setting(7, ("--max-live-per-owner", "7"), "7", "7", "N"),
    "default_timeout": Setting(7.5, ("--default-timeout", "7.5"), "7.5", "7.5", "SECONDS"),
    "default_retention": Setting(0.0, ("--default-retention", "0"), "0", "0", "SECONDS"),
    "drain": Setting(0.0, ("--drain", "0"), "0", "0", "SECONDS"),
    "max_events": Setting(77, ("--max-events", "77"), "77", "77", "N"),
    "max_input": Setting(7777, ("--max-input", "7777"), "7777", "7777", "BYTES"),
    "max_payload": Setting(7777, ("--max-payload", "7777"), "7777", "7777", "BYTES"),
    "max_watches": Setting(7, ("--max-watches", "7"), "7", "7", "N"),
    "max_watches_per_owner": Setting(7, ("--max-watches-per-owner", "7"), "7", "7", "N"),
    "log_format": Setting("json", ("--log-format", "json"), "json", '"json"'),
    "log_level": Setting("debug", ("--log-level", "debug"), "debug", '"debug"'),
}  # fmt: skip
FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def given(*flags: str) -> dict[str, Any]:
    """What click makes of a command line."""
    with serve.make_context("serve", ["service:server", *flags]) as context:
        return dict(context.params)


def test_every_setting_is_tested_with_another_value_than_its_default() -> None:
    assert SETTINGS.keys() == FIELDS.keys()
    assert not [name for name, field in FIELDS.items() if field.default == SETTINGS[name].value]


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_can_be_given_everywhere(name: str, tmp_path: Path) -> None:
    setting = SETTINGS[name]
    others = {other: value for other, value in setting.others.items() if other != name}
    environment = {f"LONGSHORE_{other.upper()}": str(value) for other, value in others.items()}
    expected = dataclasses.replace(Config(), **others, **{name: setting.value})
    assert load(given(*setting.flags), environment) == expected
    assert load(given(), {**environment, f"LONGSHORE_{name.upper()}": setting.text}) == expected
    file = tmp_path / "settings.toml"
    file.write_text(f"{name} = {setting.toml}\n")
    assert load(given(), environment, file) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("queue = -1", "queue: -1 is not between 0 and 1e+07"),
        ('queue = "many"', "queue: 'many' is not a value for it (int)"),
        ('health = "nobody"', "health: 'nobody' is none of anyone, authenticated"),
        ('tls_cert = "c"', "tls_cert: it means nothing without tls_key; set both or neither"),
        ('tls_identities = "i"', "tls_identities: it means nothing without tls_client_ca; set both or neither"),
        ('jwt_issuer = "i"', "jwt_issuer: it means nothing without jwt_keys; set both or neither"),
        ('jwt_keys = "k"', "jwt_keys: it means nothing without jwt_issuer; set both or neither"),
        ('jwt_keys = "k"\njwt_issuer = "i"', "jwt_keys: it means nothing without jwt_audience; set both or neither"),
        (
            'jwt_keys = "http://idp.example/k"\njwt_issuer = "i"\njwt_audience = "a"',
            (
                "jwt_keys: 'http://idp.example/k' is neither a path nor an https URL: whoever can change the keys on "
                "their way can be anyone"
            ),
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_where_it_stands(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, file)
    assert str(caught.value) == f"{file}: {problem}"


def test_a_wrong_setting_names_the_variable_or_the_option() -> None:
    with pytest.raises(ConfigError, match=r"^LONGSHORE_QUEUE: queue: -1 is not between"):
        load({}, {"LONGSHORE_QUEUE": "-1"})
    with pytest.raises(ConfigError, match=r"^--jwt-skew: jwt_skew: 601.0 is not between 0 and 600"):
        load({"jwt_skew": 601.0}, {})


def test_nothing_given_is_the_default() -> None:
    assert load(given(), {}) == Config()


def test_options_count_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("queue = 1\nconcurrency = 1\nmax_watches = 1\n")
    environment = {"LONGSHORE_QUEUE": "2", "LONGSHORE_CONCURRENCY": "2"}
    config = load(given("--queue", "3"), environment, file)
    assert (config.queue, config.concurrency, config.max_watches) == (3, 2, 1)


def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_inputs = 1\n")
    with pytest.raises(ConfigError, match=r"there is no setting 'max_inputs'; the settings are .*max_input,"):
        load({}, {}, file)


def test_help_shows_every_setting_with_its_unit_and_default() -> None:
    text = " ".join(CliRunner().invoke(serve, ["--help"]).output.split())
    for name, setting in SETTINGS.items():
        option = re.escape(setting.flags[0].replace("--no-", "--"))
        shown = re.search(rf" {option} (?:/ --no-\S+ )?([A-Z:|]+ )?[^-]*?\[default: (.*?)\]", text)
        assert shown is not None, name
        assert (shown[1] or "").strip() == setting.unit, name
        default = FIELDS[name].default
        if default in (None, ""):
            assert shown[2] == "none"
        elif isinstance(default, bool):
            assert shown[2] == ("yes" if default else "no")
        else:
            assert load({name: shown[2]}, {}) == Config(), "what is shown means the default"
