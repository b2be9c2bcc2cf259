"""Several authenticators of one server: which are asked, and what one that refuses or fails does to the others."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore_server.auth.authentication import Authentication
from longshore_server.auth.identity import Authenticator, Credentials, Principal
from longshore_server.auth.jwt import JwtTokens
from longshore_server.auth.tokens import TokenFile
from longshore_server.errors import ServiceError
from longshore_server.testing import ManualClock
from tests.conftest import refused
from tests.server.auth.conftest import ALL
from tests.server.auth.identities import ISSUER, bearer, public, signed, write_keys


def carrying(token: str) -> Credentials:
    return Credentials(f"Bearer {token}")


async def refusal(asked: Authentication, token: str) -> tuple[str, str]:
    with pytest.raises(ServiceError) as caught:
        await asked.identify(carrying(token))
    return caught.value.reason.name, caught.value.message


async def test_two_files_of_tokens_know_their_own(tmp_path: Path) -> None:
    clock = ManualClock()
    files = [tmp_path / "a.toml", tmp_path / "b.toml"]
    sent = [bearer(path, name) for path, name in zip(files, ("ada", "bob"), strict=True)]
    asked = Authentication([TokenFile(path, clock) for path in files], clock)
    assert [(await asked.identify(carrying(token))).name for token in sent] == ["ada", "bob"]
    assert (await refusal(asked, f"{sent[1]}x"))[0] == "CREDENTIALS_INVALID"


async def test_an_authenticator_of_ones_own_cannot_give_any_name(
    make_guarded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Naming(Authenticator):
        async def authenticate(self, credentials: Credentials) -> Principal | None:
            return Principal(names[credentials.authorization], frozenset(ALL))

    names: dict[str, Any] = {"none": "", "local": "local", "long": "a" * 257, "bell": "\a", "number": 7, "ada": "ada"}
    guarded = await make_guarded(authenticators=[Naming()])
    for sent in names.keys() - {"ada"}:
        caplog.clear()
        code, reason, _ = await refused(guarded.begin("Open", (("authorization", sent),)))
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
        (line,) = caplog.messages
        assert line.startswith(f"Naming gives a caller the name {names[sent]!r:.80}, which cannot be: it must ") or (
            line == "Naming gives a caller the name 'local', which cannot be: 'local' is reserved for servers without "
            "authentication"
        )
    assert (await guarded.begin("Open", (("authorization", "ada"),))).owner == "ada"


async def test_an_authenticator_of_ones_own_gives_principals(
    make_guarded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Naming(Authenticator):
        async def authenticate(self, credentials: Credentials) -> Principal | None:
            found: Principal = given[credentials.authorization]
            return found

    capabilities: Any = {"text": "gates.see", "list": ["gates.see"], "number": frozenset({5})}
    given: dict[str, Any] = {"name": "ada", **{sent: Principal("ada", what) for sent, what in capabilities.items()}}
    guarded = await make_guarded(authenticators=[Naming()])
    for sent, misfit in {
        "name": "a str", "text": "a Principal whose capabilities are 'gates.see'",
        "list": "a Principal whose capabilities are ['gates.see']",
        "number": "a Principal whose capabilities are frozenset({5})",
    }.items():  # fmt: skip
        caplog.clear()
        code, reason, _ = await refused(guarded.begin("Open", (("authorization", sent),)))
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
        assert caplog.messages == [f"Naming gives {misfit} where a Principal with a frozenset of texts is wanted"]


async def test_capabilities_that_no_contract_declares_are_warned_of(
    make_guarded: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens.toml"
    bearer(path, "ada", "gates.start", "longshore.provider", "gates.sea")
    with caplog.at_level(logging.WARNING):
        guarded = await make_guarded(tokens=path)
        assert caplog.messages == [f"{path}: no contract of this server declares the capability 'gates.sea'"]
        caplog.clear()
        bearer(path, "bob", "gate.start")
        await guarded.learn()
    said = [
        f"{path}: no contract of this server declares the capability {name!r}" for name in ("gate.start", "gates.sea")
    ]
    assert caplog.messages == said


async def test_one_issuer_may_have_tokens_for_several_audiences(tmp_path: Path) -> None:
    clock = ManualClock()
    keys = write_keys(tmp_path / "keys.json", public("k1"))
    asked = Authentication(
        [JwtTokens(issuer=ISSUER, audience=audience, keys=keys, clock=clock) for audience in ("orders", "billing")],
        clock,
    )
    for audience in ("billing", "orders"):
        assert (await asked.identify(carrying(signed(aud=audience)))).name == "ada"
    assert await refusal(asked, signed(exp=1)) == ("CREDENTIALS_EXPIRED", "The token has expired."), "the first refusal"


class Flaky(Authenticator):
    """Knows nobody, and cannot look whether that has changed."""

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        return None

    async def refresh(self, *, force: bool) -> bool:
        raise OSError("the directory is down")


async def test_one_that_cannot_look_keeps_no_other_from_looking(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "tokens.toml", ManualClock()
    token = bearer(path, "ada")
    asked = Authentication([Flaky(), TokenFile(path, clock)], clock)
    assert (await asked.identify(carrying(token))).name == "ada"
    assert caplog.messages == ["Flaky cannot look whether it has changed: nothing that was known counts any more"]
    path.write_text("")
    clock.advance(1)
    assert (await refusal(asked, token))[0] == "CREDENTIALS_INVALID"
    later = bearer(path, "eve")
    await asked.refresh(force=True)
    assert (await asked.identify(carrying(later))).name == "eve"


async def test_what_one_said_that_cannot_look_any_more_is_asked_again(tmp_path: Path) -> None:
    class Revoking(Flaky):
        revoked = False

        async def authenticate(self, credentials: Credentials) -> Principal | None:
            return None if self.revoked else Principal("ada", frozenset())

    clock, revoking = ManualClock(), Revoking()
    asked = Authentication([revoking], clock)
    assert (await asked.identify(carrying("x"))).name == "ada"
    revoking.revoked = True
    clock.advance(1)
    assert (await refusal(asked, "x"))[0] == "CREDENTIALS_INVALID"


async def test_a_caller_who_leaves_while_it_looks_does_not_end_the_look(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.toml", ManualClock()
    token = bearer(path, "ada")
    looking, go = asyncio.Event(), asyncio.Event()

    class Slow(Flaky):
        async def refresh(self, *, force: bool) -> bool:
            if path.read_bytes() == b"":
                looking.set()
                await go.wait()
            return False

    asked = Authentication([Slow(), TokenFile(path, clock)], clock)
    await asked.identify(carrying(token))
    path.write_text("")
    clock.advance(1)
    leaving = asyncio.ensure_future(asked.identify(carrying(token)))
    await looking.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    waiting = asyncio.ensure_future(asked.look())
    go.set()
    await waiting
    assert (await refusal(asked, token))[0] == "CREDENTIALS_INVALID"
