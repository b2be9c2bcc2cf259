"""The settings of `longshore serve`: each can be given by an option, in the environment and in a file, and is shown."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner

from longshore_client.cli.bytes import upload
from longshore_client.cli.listing import ls
from longshore_server.auth.jwt import JwtSettings
from longshore_server.command import serve
from longshore_server.config import BOUNDS, Config, ConfigError, load
from longshore_server.telemetry.sink_settings import SinkSettings
from longshore_server.transfers.stores.settings import StoreSettings


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
ISSUERS = (
    '{ issuer = "i", audience = "a", keys = "k", prefix = "i:" }',
    '{ issuer = "j", audience = "a", keys = "k", prefix = "j:", skew = 7.5 }',
)
TLS = {"tls_cert": Path("c"), "tls_key": Path("k")}
CLIENTS = {**TLS, "tls_client_ca": Path("ca")}

SETTINGS = {
    "listen": Setting(
        ("127.0.0.1:1", "unix:s"), ("--listen", "127.0.0.1:1", "--listen", "unix:s"), "127.0.0.1:1,unix:s",
        '["127.0.0.1:1", "unix:s"]', "ADDRESS",
    ),
    "socket_mode": Setting(
        "0666", ("--socket-mode", "0666"), "0666", '"0666"', others={"listen": ("unix:s",)},
    ),
    "socket_group": Setting(
        "web", ("--socket-group", "web"), "web", '"web"', "NAME|NUMBER",
        {"listen": ("unix:s",), "socket_mode": "0660"},
    ),
    "data": Setting(Path("other"), ("--data", "other"), "other", '"other"', "PATH"),
    "stores": Setting(
        (StoreSettings("u", "s3://b/p"), StoreSettings("v", "/srv")), ("--store", "u=s3://b/p", "--store", "v=/srv"),
        "u=s3://b/p,v=/srv", '{ u = { url = "s3://b/p" }, v = { url = "/srv" } }', "NAME=URL",
    ),
    "sinks": Setting(
        (SinkSettings("l", "log:"), SinkSettings("a", "https://a.example/in")),
        ("--sink", "l=log:", "--sink", "a=https://a.example/in"), "l=log:,a=https://a.example/in",
        '{ l = { url = "log:" }, a = { url = "https://a.example/in" } }', "NAME=URL",
    ),
    "max_outbox": Setting(777, ("--max-outbox", "777"), "777", "777", "N"),
    "max_outbox_bytes": Setting(7_777_777, ("--max-outbox-bytes", "7777777"), "7777777", "7777777", "BYTES"),
    "metrics": Setting("127.0.0.1:1", ("--metrics", "127.0.0.1:1"), "127.0.0.1:1", '"127.0.0.1:1"', "HOST:PORT"),
    "allow_unauthenticated": Setting(True, ("--allow-unauthenticated",), "true", "true"),
    "tokens": Setting(Path("t"), ("--tokens", "t"), "t", '"t"', "FILE"),
    "jwt_keys": Setting("k", ("--jwt-keys", "k"), "k", '"k"', "PATH|URL", JWT),
    "jwt_issuer": Setting("x", ("--jwt-issuer", "x"), "x", '"x"', "TEXT", JWT),
    "jwt_audience": Setting("x", ("--jwt-audience", "x"), "x", '"x"', "TEXT", JWT),
    "jwt_claim": Setting("x", ("--jwt-claim", "x"), "x", '"x"', "NAME"),
    "jwt_skew": Setting(7.5, ("--jwt-skew", "7.5"), "7.5", "7.5", "SECONDS"),
    "jwt": Setting(
        (JwtSettings("i", "a", "k", prefix="i:"), JwtSettings("j", "a", "k", skew=7.5, prefix="j:")),
        ("--jwt", ISSUERS[0], "--jwt", ISSUERS[1]), ", ".join(ISSUERS), f"[{', '.join(ISSUERS)}]", "TABLE",
    ),
    "tls_cert": Setting(Path("x"), ("--tls-cert", "x"), "x", '"x"', "FILE", TLS),
    "tls_key": Setting(Path("x"), ("--tls-key", "x"), "x", '"x"', "FILE", TLS),
    "tls_client_ca": Setting(Path("x"), ("--tls-client-ca", "x"), "x", '"x"', "FILE", TLS),
    "tls_identities": Setting(Path("x"), ("--tls-identities", "x"), "x", '"x"', "FILE", CLIENTS),
    "health": Setting("authenticated", ("--health", "authenticated"), "authenticated", '"authenticated"'),
    "reflection": Setting("off", ("--reflection", "off"), "off", '"off"'),
    "concurrency": Setting(7, ("--concurrency", "7"), "7", "7", "N"),
    "concurrency_per_owner": Setting(7, ("--concurrency-per-owner", "7"), "7", "7", "N"),
    "queue": Setting(7, ("--queue", "7"), "7", "7", "N"),
    "queue_per_owner": Setting(7, ("--queue-per-owner", "7"), "7", "7", "N"),
    "max_live": Setting(7, ("--max-live", "7"), "7", "7", "N"),
    "max_live_per_owner": Setting(7, ("--max-live-per-owner", "7"), "7", "7", "N"),
    "default_timeout": Setting(7.5, ("--default-timeout", "7.5"), "7.5", "7.5", "SECONDS"),
    "default_retention": Setting(0.0, ("--default-retention", "0"), "0", "0", "SECONDS"),
    "log_retention": Setting(7.5, ("--log-retention", "7.5"), "7.5", "7.5", "SECONDS"),
    "drain": Setting(0.0, ("--drain", "0"), "0", "0", "SECONDS"),
    "max_events": Setting(77, ("--max-events", "77"), "77", "77", "N"),
    "max_input": Setting(7777, ("--max-input", "7777"), "7777", "7777", "BYTES"),
    "max_payload": Setting(7777, ("--max-payload", "7777"), "7777", "7777", "BYTES"),
    "max_watches": Setting(7, ("--max-watches", "7"), "7", "7", "N"),
    "max_watches_per_owner": Setting(7, ("--max-watches-per-owner", "7"), "7", "7", "N"),
    "max_transfers": Setting(7, ("--max-transfers", "7"), "7", "7", "N"),
    "max_transfers_per_owner": Setting(7, ("--max-transfers-per-owner", "7"), "7", "7", "N"),
    "log_format": Setting("json", ("--log-format", "json"), "json", '"json"'),
    "log_level": Setting("debug", ("--log-level", "debug"), "debug", '"debug"'),
}  # fmt: skip
ROOT = Path(__file__).parents[2]
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
    environment = _together(name)
    expected = dataclasses.replace(Config(), **others, **{name: setting.value})
    assert load(given(*setting.flags), environment) == expected
    assert load(given(), {**environment, f"LONGSHORE_{name.upper()}": setting.text}) == expected
    file = tmp_path / "settings.toml"
    file.write_text(f"{name} = {setting.toml}\n")
    assert load(given(), environment, file) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("queue = -1", "queue: -1 is not between 0 and 10,000,000"),
        ("concurrency = 0", "concurrency: 0 is not between 1 and 1,000,000"),
        ("default_timeout = 0.0", "default_timeout: 0.0 is not between 0.001 and 1,000,000,000"),
        ("drain = nan", "drain: nan is not between 0 and 1,000,000"),
        ("drain = inf", "drain: inf is not between 0 and 1,000,000"),
        (f"drain = 1{'0' * 400}", f"drain: 1{'0' * 400} is not a number"),
        ('queue = "7"', "queue: '7' is not a whole number"),
        ("queue = 7.5", "queue: 7.5 is not a whole number"),
        ("queue = true", "queue: True is not a whole number"),
        ("drain = true", "drain: True is not a number"),
        ('drain = "7"', "drain: '7' is not a number"),
        ("allow_unauthenticated = 1", "allow_unauthenticated: 1 is not true or false"),
        ('allow_unauthenticated = "true"', "allow_unauthenticated: 'true' is not true or false"),
        ("jwt_claim = 7", "jwt_claim: 7 is not a text"),
        ("data = 7", "data: 7 is not a path"),
        ("tokens = false", "tokens: False is not a path"),
        ("listen = 7", "listen: 7 is not a list of texts"),
        ("listen = [7]", "listen: [7] is not a list of texts"),
        ("listen = []", "listen: at least one address is needed, for example 127.0.0.1:50051"),
        ('listen = ["here"]', "listen: 'here' is neither HOST:PORT nor unix:PATH"),
        ('listen = ["http://h:1"]', "listen: 'http://h:1' is neither HOST:PORT nor unix:PATH"),
        ('listen = ["unix:"]', "listen: 'unix:' is neither HOST:PORT nor unix:PATH"),
        ('listen = ["unix:a\\u0000"]', r"listen: 'unix:a\x00' is neither HOST:PORT nor unix:PATH"),
        (
            f'listen = ["unix:/{"a" * 105}ä"]',
            f"listen: 'unix:/{'a' * 105}ä' is too long: a socket's path may have 107 bytes, its folder's 95",
        ),
        (
            f'listen = ["unix:/{"a" * 95}/s"]',
            f"listen: 'unix:/{'a' * 95}/s' is too long: a socket's path may have 107 bytes, its folder's 95",
        ),
        ('socket_mode = "0644"', "socket_mode: '0644' is none of 0600, 0660, 0666"),
        ("socket_mode = 0o660", "socket_mode: 432 is not a text"),
        ('socket_mode = "0660"', "socket_mode: it means nothing without a unix:PATH in listen"),
        ('socket_group = "web"\nsocket_mode = "0660"', "socket_group: it means nothing without a unix:PATH in listen"),
        (
            'listen = ["unix:s"]\nsocket_group = "web"',
            "socket_group: with socket_mode 0600 the group may not call; say 0660",
        ),
        ('data = ""', "data: '' is not a path"),
        ('tokens = ""', "tokens: '' is not a path"),
        ('tokens = "a\\u0000"', r"tokens: 'a\x00' is not a path"),
        (
            'jwt_keys = "https://[::1"\njwt_issuer = "i"\njwt_audience = "a"',
            "jwt_keys: 'https://[::1' is no URL: Invalid IPv6 URL",
        ),
        (f"queue = {'[' * 5000}", "it is nested too deeply"),
        (f"queue.{'a.' * 5000}b = 1", "queue: what is nested so deeply is not a whole number"),
        (f"stores.u.url.{'a.' * 5000}b = 1", "stores: u: url: what is nested so deeply is not a text"),
        ('metrics = "none"', "metrics: 'none' is neither HOST:PORT nor off"),
        ("[queue]", "queue: {} is not a whole number"),
        ('log_level = "loud"', "log_level: 'loud' is none of debug, info, warning, error"),
        ('health = "nobody"', "health: 'nobody' is none of anyone, authenticated"),
        ('tls_cert = "c"', "tls_cert: it means nothing without tls_key; set both or neither"),
        ('tls_identities = "i"', "tls_identities: it means nothing without tls_client_ca; set both or neither"),
        ('jwt_issuer = "i"', "jwt_issuer: it means nothing without jwt_keys; set both or neither"),
        ('jwt_keys = "k"', "jwt_keys: it means nothing without jwt_issuer; set both or neither"),
        ('jwt_keys = "k"\njwt_issuer = "i"', "jwt_keys: it means nothing without jwt_audience; set both or neither"),
        ("jwt = 7", "jwt: 7 is not a list of tables"),
        ("jwt = [7]", "jwt: [0]: 7 is not a table"),
        ('[[jwt]]\nissuer = "i"', "jwt: [0]: audience: it is missing"),
        (
            f'jwt = [{ISSUERS[0]}, {{ issuers = "j" }}]',
            "jwt: [1]: there is no option 'issuers'; the options are issuer, audience, keys, claim, skew, prefix",
        ),
        ("[[jwt]]\nissuer = 7", "jwt: [0]: issuer: 7 is not a text"),
        (
            '[[jwt]]\nissuer = "i"\naudience = "a"\nkeys = "k"\nskew = 601',
            "jwt: [0]: skew: 601 is not between 0 and 600",
        ),
        (
            '[[jwt]]\nissuer = "i"\naudience = "a"\nkeys = "http://idp.example/k"',
            (
                "jwt: [0]: keys: 'http://idp.example/k' is neither a path nor an https URL: whoever can change the "
                "keys on their way can be anyone"
            ),
        ),
        ("stores = 7", "stores: 7 is not a table of stores"),
        ("[stores]\nu = 7", "stores: u: 7 is not a table"),
        ("[stores.U]", "stores: U: 'U' cannot name a store: lower-case letters, digits, - and _, 63 at most"),
        (
            "[stores.u]\nbucket = 7",
            (
                "stores: u: there is no option 'bucket'; the options are url, max_object_bytes, region, endpoint, "
                "allow_http"
            ),
        ),
        ("[stores.u]\nurl = 7", "stores: u: url: 7 is not a text"),
        ("[stores.u]\nmax_object_bytes = true", "stores: u: max_object_bytes: True is not a whole number"),
        (
            "[stores.u]\nmax_object_bytes = 0",
            "stores: u: max_object_bytes: 0 is not between 1 and 5,497,558,138,880",
        ),
        (
            '[stores.u]\nurl = "http://x/"',
            "stores: u: url: 'http://x/' is neither a folder nor one of s3://, gs:// and az://",
        ),
        (
            '[stores.u]\nurl = "gs://b/x?region=eu"',
            (
                "stores: u: url: '?region=eu' is no part of a bucket or prefix; leave it out: region, endpoint and "
                "allow_http of S3 are keys of their own"
            ),
        ),
        ('[stores.u]\nurl = "s3:///x"', "stores: u: url: 's3:///x' names no bucket"),
        (
            '[stores.u]\nurl = "gs://x"\nregion = "y"',
            "stores: u: region: it means nothing without a URL that begins with s3://",
        ),
        (
            '[stores.u]\nurl = "s3://x"\nendpoint = "http://y"',
            "stores: u: endpoint: 'http://y' has no TLS; say allow_http = true if that is what you want",
        ),
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


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"queue = ", "Invalid value (at line 1, where the file ends)"),
        (b"queue = 1\nlisten = [\n", "Invalid value (at line 3, where the file ends)"),
        (b"queue = 1\nqueue = 2\n", "Cannot overwrite a value"),
        (b'queue = 1\ndata = "\xff"', "it is not UTF-8 (at line 2): save it as such"),
    ],
    ids=["absent", "no TOML", "no end", "twice", "no UTF-8"],
)
def test_a_file_that_cannot_be_read_is_refused(content: bytes | None, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, file)
    assert str(caught.value).startswith(f"{file}: {problem}")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("queue", "-1", "-1 is not between 0 and 10,000,000"),
        ("queue", "7.5", "'7.5' is not a whole number"),
        ("drain", "soon", "'soon' is not a number"),
        ("allow_unauthenticated", "perhaps", "'perhaps' is not true or false"),
        ("health", "nobody", "'nobody' is none of anyone, authenticated"),
        ("listen", "127.0.0.1:1,here", "'here' is neither HOST:PORT nor unix:PATH"),
        ("metrics", "none", "'none' is neither HOST:PORT nor off"),
        ("jwt", '{ issuer = "i" ', """'{ issuer = "i" ' is not a list of tables"""),
        ("jwt", '{ issuer = "i" }', "[0]: audience: it is missing"),
        ("tls_key", "k", "it means nothing without tls_cert; set both or neither"),
    ],
)
def test_a_wrong_setting_names_its_variable(name: str, text: str, problem: str) -> None:
    variable = f"LONGSHORE_{name.upper()}"
    with pytest.raises(ConfigError) as caught:
        load({}, {variable: text})
    assert str(caught.value) == f"{variable}: {problem}"


@pytest.mark.parametrize("option", ["--data", "--tokens", "--tls-cert", "--config"])
def test_an_empty_path_is_refused(option: str) -> None:
    with pytest.raises(click.BadParameter, match=r"^it is empty$"):
        given(option, "")


def test_a_text_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^LONGSHORE_JWT: '\[{5000}' is not a list of tables$"):
        load({}, {"LONGSHORE_JWT": "[" * 5000})


def test_a_socket_may_have_as_long_a_path_as_the_system_allows() -> None:
    assert Config(listen=(f"unix:///{'a' * 106}",)).listen


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("TOKNES", "TOKENS"), ("MAXINPUT", "MAX_INPUT"), ("JWT_KEY", "JWT_KEYS"), ("TLS_CLIENT", "TLS_CLIENT_CA")],
)
def test_a_misspelt_variable_is_refused(variable: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {f"LONGSHORE_{variable}": "x"})
    assert str(caught.value) == f"LONGSHORE_{variable}: there is no such setting; did you mean LONGSHORE_{meant}?"


def test_variables_of_callers_and_of_others_are_left_alone() -> None:
    callers = [option.envvar for command in (ls, upload) for option in command.params if option.envvar]
    assert callers
    others = ("PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT_50051_TCP", "PORT_50051_TCP_ADDR")
    variables = [*map(str, callers), "LONGSHORE_SERVER", *(f"LONGSHORE_{name}" for name in others), "LONGSHORE"]
    assert load({}, dict.fromkeys(variables, "x")) == Config()


def test_a_wrong_setting_names_its_option() -> None:
    with pytest.raises(ConfigError, match=r"^--jwt-skew: 601.0 is not between 0 and 600$"):
        load({"jwt_skew": 601.0}, {"LONGSHORE_JWT_SKEW": "7"})
    with pytest.raises(ConfigError, match=r"^--listen: 'listen:' is neither HOST:PORT nor unix:PATH$"):
        load(given("--listen", "listen:"), {})
    with pytest.raises(ConfigError, match=r"^--store: U: 'U' cannot name a store"):
        load(given("--store", "U=/srv"), {})


@pytest.mark.parametrize("name", BOUNDS)
def test_both_bounds_of_a_number_are_allowed_and_what_is_beyond_is_not(name: str) -> None:
    for bound, beyond in zip(BOUNDS[name], (-1, 1), strict=True):
        allowed: dict[str, Any] = {name: bound}
        assert getattr(Config(**allowed), name) == bound
        refused: dict[str, Any] = {name: bound + beyond}
        with pytest.raises(ConfigError, match=f"^{name}: "):
            Config(**refused)


def test_every_number_has_bounds() -> None:
    assert BOUNDS.keys() == {name for name, field in FIELDS.items() if field.type in ("int", "float")}


def test_metrics_are_turned_off_by_the_same_word_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('metrics = "off"')
    for config in (load(given("--metrics", "off"), {}), load({}, {"LONGSHORE_METRICS": "off"}), load({}, {}, file)):
        assert config.metrics_address == ""
    assert load(given("--metrics", ""), {}).metrics_address == ""
    assert load({}, {"LONGSHORE_METRICS": ""}).metrics_address == Config().metrics, "not set"


def test_nothing_given_is_the_default() -> None:
    assert load(given(), {}) == Config()


def test_options_count_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("queue = 1\nconcurrency = 1\nmax_watches = 1\n")
    environment = {"LONGSHORE_QUEUE": "2", "LONGSHORE_CONCURRENCY": "2"}
    config = load(given("--queue", "3"), environment, file)
    assert (config.queue, config.concurrency, config.max_watches) == (3, 2, 1)


def test_stores_add_up(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[stores.a]\nurl = "1"\nmax_object_bytes = 7\n[stores.b]\nurl = "1"\n[stores.c]\nurl = "1"\n')
    environment = {"LONGSHORE_STORES": "b=2,c=2,d"}
    config = load(given("--store", "c=3"), environment, file)
    assert config.stores == (
        StoreSettings("a", "1", max_object_bytes=7), StoreSettings("b", "2"), StoreSettings("c", "3"),
        StoreSettings("d"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"^.*settings.toml with --store: stores: b: url: 'x://y' is neither"):
        load(given("--store", "b=x://y"), {}, file)


def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_inputs = 1\n")
    with pytest.raises(ConfigError, match=r"there is no setting 'max_inputs'; did you mean 'max_input'\?$"):
        load({}, {}, file)
    file.write_text("[longshore]\n")
    with pytest.raises(ConfigError, match=r"there is no setting 'longshore'; the settings are .*max_input,"):
        load({}, {}, file)


def test_help_shows_every_setting_with_its_unit_and_default() -> None:
    text = " ".join(CliRunner().invoke(serve, ["--help"]).output.split())
    for name, setting in SETTINGS.items():
        option = re.escape(setting.flags[0].replace("--no-", "--"))
        shown = re.search(rf" {option} (?:/ --no-\S+ )?([A-Z:|=]+ )?[^-]*?\[default: (.*?)\]", text)
        assert shown is not None, name
        assert (shown[1] or "").strip() == setting.unit, name
        default = FIELDS[name].default
        if default in (None, "", ()):
            assert shown[2] == "none"
        elif isinstance(default, bool):
            assert shown[2] == ("yes" if default else "no")
        else:
            assert load({name: shown[2]}, {}) == Config(), "what is shown means the default"


def test_the_page_has_every_setting_as_it_is() -> None:
    command = [sys.executable, str(ROOT / "docs/generate.py"), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {}
    for line in (ROOT / "docs/configuration.md").read_text("utf-8").splitlines():
        if line.startswith("| `"):
            key, *rest = (cell.strip() for cell in line.strip("|").split(" | "))
            rows[key.strip("`")] = rest
    assert list(rows) == list(FIELDS)
    options = {option.name: option.opts[0] for option in serve.params}
    for name, (option, variable, kind, _, _, meaning) in rows.items():
        assert option.strip("`") == options[name]
        assert load(given(), {variable.strip("`"): SETTINGS[name].text, **_together(name)}) != Config()
        assert kind
        assert meaning.endswith(".")


def _together(name: str) -> dict[str, str]:
    others = {key: value for key, value in SETTINGS[name].others.items() if key != name}
    texts = {key: ",".join(value) if isinstance(value, tuple) else str(value) for key, value in others.items()}
    return {f"LONGSHORE_{key.upper()}": text for key, text in texts.items()}
