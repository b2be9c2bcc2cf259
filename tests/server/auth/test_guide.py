"""The guide to capabilities, as it says: its contract enforced, its commands and files understood, its code run."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import longshore_client
import longshore_server
from longshore_client.cli.listing import ls
from longshore_client.codegen.compile import compile_protos
from longshore_server import Credentials, Server, ServiceError
from longshore_server.auth.mtls import CertificateNames
from longshore_server.auth.tokens import TokenFile
from longshore_server.command import serve, token
from longshore_server.contract import loading
from longshore_server.testing import ManualClock
from tests.server.auth.conftest import Handlers

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "capabilities.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
CODE = {language: [text for found, text in BLOCKS if found == language] for language in ("proto", "python", "toml", "")}
MESSAGES = "message ProcessOrderRequest {}\nmessage ProcessOrderProgress {}\nmessage ProcessOrderResult {}\n"


def commands() -> list[list[str]]:
    text = "".join(CODE[""]).replace("\\\n", " ")
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")]


def test_the_contract_is_enforced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (body,) = CODE["proto"]
    head = 'syntax = "proto3";\npackage guide.v1;\nimport "google/longrunning/operations.proto";\n'
    proto = tmp_path / "protos" / "guide" / "v1" / "guide.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text(f'{head}import "longshore/v1/annotations.proto";\n{body}{MESSAGES}')
    out = tmp_path / "out"
    out.mkdir()
    folder = tmp_path / "protos"
    compile_protos([folder], out, include=[folder], stubs="none", contracts=True, packages=False)
    monkeypatch.syspath_prepend(out)
    module = importlib.import_module("guide.v1.guide_longshore")

    class Orders(module.OrdersService):  # type: ignore[misc,name-defined]
        async def process(self, request: Any, op: Any, /) -> Any: ...

    (type,) = loading.load([Orders()], default_timeout=1, authenticated=True)
    read, write = frozenset({"orders.read"}), frozenset({"orders.write"})
    assert (type.call, type.observe, type.cancel) == (write, read, write)
    assert (type.control, type.owned) == (None, True)


def test_the_commands_have_these_options() -> None:
    known = {"serve": serve, "token": token, "ls": ls}
    seen = 0
    for program, name, *arguments in commands():
        if program == "longshore":
            options = {option for parameter in known[name].params for option in parameter.opts}
            assert {a for a in arguments if a.startswith("--")} <= options, name
            seen += 1
    assert seen == 5
    named = set(re.findall(r"`--([a-z-]+)`", GUIDE))
    assert named <= {option[2:] for command in known.values() for p in command.params for option in p.opts}


async def test_the_token_is_made_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (arguments,) = [arguments for _, name, *arguments in commands() if name == "token"]
    made = CliRunner().invoke(token, arguments).stdout.strip()
    assert re.match(r"longshore_[0-9a-f]{8}_", made)
    principal = await TokenFile(tmp_path / "tokens.toml", ManualClock()).authenticate(Credentials(f"Bearer {made}"))
    assert principal is not None
    assert (principal.name, sorted(principal.capabilities)) == ("checkout", ["orders.read", "orders.write"])


def test_the_file_of_names_is_understood(tmp_path: Path) -> None:
    (text,) = CODE["toml"]
    path = tmp_path / "identities.toml"
    path.write_text(text)
    CertificateNames(path, ManualClock())


async def test_an_authenticator_of_ones_own_works() -> None:
    (text,) = [text for text in CODE["python"] if "Authenticator" in text]
    scope: dict[str, Any] = {name: getattr(longshore_server, name) for name in longshore_server.__all__}
    exec(text, {**scope, "Orders": Handlers}, scope)
    assert isinstance(scope["server"], Server)
    badge = types.SimpleNamespace(holder="ada", rights=["a"], ends_at_microseconds=None)
    badges: Any = scope["Badges"]()

    async def find(number: str) -> Any:
        return badge if number == "7" else None

    badges.badges = types.SimpleNamespace(find=find)
    principal = await badges.authenticate(Credentials("Badge 7"))
    assert (principal.name, principal.capabilities) == ("ada", {"a"})
    assert await badges.authenticate(Credentials("Bearer x")) is None
    with pytest.raises(ServiceError, match="The badge is not known"):
        await badges.authenticate(Credentials("Badge 8"))


def test_the_rest_of_the_code_is_python_and_its_names_exist() -> None:
    for text in CODE["python"]:
        ast.parse(text)
    assert {"connect", "tls"} <= set(longshore_client.__all__)
    assert all(
        hasattr(longshore_server, name) for name in ("Authenticator", "Credentials", "Principal", "unauthenticated")
    )
