"""Several authenticators of one server: which are asked, and what one that refuses or fails does to the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore_server.auth.authentication import Authentication
from longshore_server.auth.identity import Credentials
from longshore_server.auth.jwt import JwtTokens
from longshore_server.auth.tokens import TokenFile
from longshore_server.errors import ServiceError
from longshore_server.testing import ManualClock
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
