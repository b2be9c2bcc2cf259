"""What can be wrong with what a method says of its bytes; the rows are like those of test_contract_mistakes.py."""

from __future__ import annotations

from typing import Any

import pytest
from bytes.v1 import bytes_longshore
from google.protobuf.descriptor import ServiceDescriptor

from longshore_server import ContractError
from longshore_server.contract import loading
from tests.server.contracts import contract, method, refusal, service
from tests.server.test_contract_mistakes import NEWER, newer


def sends(more: str = "", key_path: str = "key") -> str:
    """The text of an operation option whose callers send bytes."""
    return f'transfer {{ direction: TRANSFER_DIRECTION_SEND store: "files" key_path: "{key_path}" {more} }}'


def receives(more: str = "") -> str:
    """The text of an operation option whose callers fetch bytes."""
    return f'transfer {{ direction: TRANSFER_DIRECTION_RECEIVE store: "files" {more} }}'


DIRECTION = "option transfer.direction: it must be TRANSFER_DIRECTION_SEND or TRANSFER_DIRECTION_RECEIVE"
# What is wrong, the path, and what is said of it. Metadata has to be a map, all else a text.
PATHS = (
    ("nowhere", "no", "'no' is not a field of PKG.Input"),
    ("below a text", "key.x", "'key.x' is no path of PKG.Input: key is not a single message"),
    ("a number", "inner.count", "'inner.count' must be {} of PKG.Input"),
    ("a list", "keys", "'keys' must be {} of PKG.Input"),
    ("a message", "inner", "'inner' must be {} of PKG.Input"),
)
CASES: dict[str, tuple[Any, str]] = {
    "no direction": (method(options='transfer { store: "files" key_path: "key" }'), DIRECTION),
    "an unknown direction": (method(options='transfer { direction: 9 store: "files" key_path: "key" }'), DIRECTION),
    "a newer version": (newer(sends(), "transfer"), f"option transfer: {NEWER}"),
    "an expiry of a newer version": (
        newer(sends("expiry { seconds: 1 }"), "transfer", "expiry"), f"option transfer.expiry: {NEWER}",
    ),
    "no store": (
        method(options="transfer { direction: TRANSFER_DIRECTION_RECEIVE }"),
        "option transfer.store: it must name the store resource that keeps the bytes",
    ),
    "an upload without a key": (
        method(options='transfer { direction: TRANSFER_DIRECTION_SEND store: "files" }'),
        "option transfer.key_path: it must name the input field that holds the object's key",
    ),
    **{
        f"a {option} that is {what}": (method(options=options), f"option transfer.{option}: {problem.format(wanted)}")
        for what, path, problem in PATHS
        for option, wanted, options in (
            ("key_path", "a single string field", sends(key_path=path)),
            ("content_type_path", "a single string field", sends(f'content_type_path: "{path}"')),
            ("metadata_path", "a map of strings", sends(f'metadata_path: "{path}"')),
        )
    },
    "metadata in a text": (
        method(options=sends('metadata_path: "key"')),
        "option transfer.metadata_path: 'key' must be a map of strings of PKG.Input",
    ),
    "fewer than no bytes": (
        method(options=sends("max_bytes: -1")),
        "option transfer.max_bytes: it must not be negative; leave it out for the store's own bound",
    ),
    "no time": (
        method(options=sends("expiry {}")), "option transfer.expiry: it must be longer than zero",
    ),
    "less than no time": (
        method(options=receives("expiry { seconds: -1 }")), "option transfer.expiry: it must be longer than zero",
    ),
    "an unknown way with what does not fit": (
        method(options=sends("on_mismatch: 9")),
        "option transfer.on_mismatch: 9 is not a value that this version knows",
    ),
    "fewer than no uses": (
        method(options=receives("max_uses: -1")),
        "option transfer.max_uses: it must not be negative; leave it out for no bound",
    ),
    "uses of an upload": (
        method(options=sends("max_uses: 1")),
        "option transfer.max_uses: it means nothing with TRANSFER_DIRECTION_SEND",
    ),
    **{
        f"a download with {said.partition(':')[0]}": (
            method(options=receives(said)),
            f"option transfer.{said.partition(':')[0]}: it means nothing with TRANSFER_DIRECTION_RECEIVE",
        )
        for said in (
            'metadata_path: "key"', "max_bytes: 1", "require_checksum: true", "refuse_existing: true",
            "delete_with_operation: true", "on_mismatch: ON_MISMATCH_DROP",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_transfer_is_refused(case: str) -> None:
    proto, message = CASES[case]
    assert refusal(proto) == f"FILE:7: Orders.Play: {message}"


DECLARE = "Server(stores={'files': LocalStore()}) declares it, or [stores.files] in the configuration"


@pytest.mark.parametrize(
    ("stores", "problem"),
    [
        ([], f"the server has no store of this name, and no other: {DECLARE}"),
        (["uploads", "exports"], f"the server has no store of this name, only exports, uploads: {DECLARE}"),
        (["file"], f"the server has no store of this name, only file: {DECLARE}. Did you mean 'file'?"),
    ],
)
def test_a_store_that_the_server_does_not_declare_is_refused(stores: list[str], problem: str) -> None:
    made = service(contract(method(options=sends())))
    with pytest.raises(ContractError, match=r"proto:7: Orders\.Play: option transfer\.store: ") as caught:
        loading.load([made], default_timeout=1, stores=stores)
    assert str(caught.value).endswith(f"transfer.store: {problem}")
    # Where a server is written its configuration is not known, and where code is generated there is no server.
    (found,) = loading.load([made], default_timeout=1)
    assert loading.load([made], default_timeout=1, stores=["files", *stores])
    assert found.transfer is not None
    assert found.transfer.store == "files"


def test_a_transfer_is_what_it_says() -> None:
    descriptor: ServiceDescriptor = bytes_longshore.BytesService.DESCRIPTOR
    found = {type.method.name: type.transfer for type in loading.load([service(descriptor)], default_timeout=1)}
    transfers = {name: transfer for name, transfer in found.items() if transfer is not None}
    assert len(transfers) == len(found)
    full, plain, strict = transfers["Upload"], transfers["Plain"], transfers["Strict"]
    assert (full.sends, full.store, full.expiry, full.max_bytes) == (True, "uploads", 3_600_000_000, 0)
    assert (full.key, full.content_type, full.metadata) == (["key"], ["content_type"], ["metadata"])
    assert (plain.key, plain.content_type, plain.metadata) == (["file", "key"], (), ())
    assert (strict.require_checksum, strict.refuse_existing, strict.drop_mismatch, strict.owned) == (
        True, True, True, False,
    )  # fmt: skip
    assert (plain.require_checksum, plain.refuse_existing, plain.drop_mismatch) == (False, False, False)
    assert transfers["Owned"].owned
    assert (transfers["Small"].max_bytes, transfers["Small"].expiry) == (1000, 60_000_000)
    export, offer, ticket = transfers["Export"], transfers["Offer"], transfers["Ticket"]
    assert (export.sends, export.store, export.key, export.max_uses) == (False, "exports", ["key"], 0)
    assert (offer.sends, offer.key) == (False, ())
    assert (ticket.expiry, ticket.max_uses) == (60_000_000, 2)
