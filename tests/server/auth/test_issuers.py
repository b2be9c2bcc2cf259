"""Several issuers of JSON Web Tokens in the configuration: each has its keys, and its own names."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.config import ConfigError, load
from tests.conftest import refused
from tests.server.auth.callers import UNAUTHENTICATED, Make
from tests.server.auth.conftest import ALL, Metadata
from tests.server.auth.identities import ISSUER, public, signed, write_keys

PARTNER = "https://partner.example"
SCOPES = " ".join(ALL)


def sending(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def settings(folder: Path, prefix: str = 'prefix = "partner:"') -> Path:
    ours = write_keys(folder / "ours.json", public("k1"))
    theirs = write_keys(folder / "theirs.json", public("k2"))
    file = folder / "settings.toml"
    file.write_text(f"""
[[jwt]]
issuer = "{ISSUER}"
audience = "orders"
keys = "{ours}"
prefix = "acme:"

[[jwt]]
issuer = "{PARTNER}"
audience = "shipments"
keys = "{theirs}"
claim = "rights"
{prefix}
""")
    return file


async def test_each_issuer_has_its_own_names_keys_and_claims(make_guarded: Make, tmp_path: Path) -> None:
    guarded = await make_guarded(jwt=load({}, {}, settings(tmp_path)).jwt)
    ours = sending(signed("k1", scope=SCOPES))
    theirs = sending(signed("k2", iss=PARTNER, aud="shipments", rights=SCOPES))
    owners = [(await guarded.begin("Own", caller)).owner for caller in (ours, theirs)]
    assert owners == ["acme:ada", "partner:ada"]
    for caller, owner in zip((ours, theirs), owners, strict=True):
        listed = (await guarded.operations.List(pb.ListRequest(), metadata=caller)).operations
        assert [each.owner for each in listed] == [owner], "two people, though both are called ada"
    for token in (signed("k2", scope=SCOPES), signed("k1", iss=PARTNER, aud="shipments"), signed("k2", iss=PARTNER)):
        assert (await refused(guarded.begin("Own", sending(token))))[0] is UNAUTHENTICATED
    scoped = sending(signed("k2", iss=PARTNER, aud="shipments", scope=SCOPES))
    assert (await refused(guarded.begin("Own", scoped)))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_issuers_that_could_name_the_same_principal_are_refused(make_guarded: Make, tmp_path: Path) -> None:
    problem = f"^the issuers {ISSUER} and {PARTNER} could name the same principal: give each a prefix"
    with pytest.raises(ConfigError, match=problem):
        await make_guarded(jwt=load({}, {}, settings(tmp_path, prefix="")).jwt)


async def test_the_settings_of_one_issuer_are_one_more(make_guarded: Make, tmp_path: Path) -> None:
    config = load({}, {}, settings(tmp_path))
    keys = write_keys(tmp_path / "third.json", public("k3"))
    third = {"jwt_keys": keys, "jwt_issuer": ISSUER, "jwt_audience": "billing"}
    with pytest.raises(ConfigError, match="could name the same principal"):
        await make_guarded(jwt=config.jwt, **third)
    guarded = await make_guarded(jwt=config.jwt[:1], **third)
    caller = sending(signed("k3", aud="billing", scope=SCOPES))
    assert (await guarded.begin("Own", caller)).owner == "ada", "of the same issuer, which knows its own names"


async def test_keys_that_cannot_be_read_name_the_setting(make_guarded: Make, tmp_path: Path) -> None:
    file = settings(tmp_path)
    (tmp_path / "theirs.json").unlink()
    with pytest.raises(ConfigError, match=r"^jwt: .*theirs\.json: No such file or directory"):
        await make_guarded(jwt=load({}, {}, file).jwt)
