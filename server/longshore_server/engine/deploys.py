"""Deploys: what the last server left behind must be understood by the contracts that this one serves."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from longshore_server.contract import compatibility
from longshore_server.contract.types import OperationType
from longshore_server.errors import Reason, invalid
from longshore_server.handler.texts import counted
from longshore_server.store.database import StoreError
from longshore_server.store.mutations import ContractVersion
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store

WAYS_OUT = (
    "Change the contract as it says, or serve the one that they were started under until they have ended, "
    "or cancel them there"
)


async def check(
    store: Store, types: Mapping[str, OperationType], live: Sequence[OperationRecord]
) -> list[ContractVersion]:
    """The contracts that operations are started under from now on.

    Raises `StoreError` when one of the `live` operations is of a type that is no longer served, or was started under a
    contract that today's does not fit: what is wrong, how many operations it is about, and the ways out.
    """
    _check_served(types, live)
    today = {name: compatibility.describe(type) for name, type in types.items()}
    stored = await store.contracts({record.contract for record in live if record.contract is not None})
    sent = await store.sent_signals()
    compared: dict[int | None, list[compatibility.Mismatch]] = {None: []}
    problems: dict[str, Counter[compatibility.Mismatch]] = {}
    for record in live:
        name, number = record.type, record.contract
        if number is not None and number not in compared:
            before, now = stored[number], today[name]
            compared[number] = compatibility.compare(before, now) if before != now else []
        # A contract in between may have brought signals to operations that were started under one without.
        brought = _signals(types[name], sent.get(record.uid, ()))
        if brought or compared[number]:
            problems.setdefault(name, Counter()).update(list(dict.fromkeys((*compared[number], *brought))))
    if problems:
        lines = [
            f"  {counted(count, 'operation')} of {name}: {mismatch}"
            for name, counts in sorted(problems.items())
            for mismatch, count in counts.items()
        ]
        raise StoreError(
            f"{store.path}: the contract has changed under operations that have not ended:\n"
            + "\n".join(lines)
            + f"\n{WAYS_OUT} (longshore ls --filter 'type=\"{min(problems)}\"')"
        )
    return [
        ContractVersion(name, hashlib.sha256(descriptors).digest()[:16], descriptors)
        for name, descriptors in today.items()
    ]


async def check_input(store: Store, type: OperationType, record: OperationRecord) -> None:
    """Raises `ServiceError` (WRONG_INPUT_TYPE) when the input of an ended operation means something else today."""
    if record.contract is None:
        return
    before = (await store.contracts([record.contract]))[record.contract]
    now = compatibility.describe(type)
    mismatches = compatibility.compare_input(before, now) if before != now else []
    if mismatches:
        first = mismatches[0]
        problem = f"its input was written under another contract: {first.where} {first.problem}"
        raise invalid("name", f"{problem}; start a new one", reason=Reason.WRONG_INPUT_TYPE)


async def check_stores(store: Store, names: Collection[str], live: Sequence[OperationRecord]) -> None:
    """Raises `StoreError` when operations that have not ended have bytes in a store that the server does not have.

    So do those that have ended, where an object is still on its way to its place. `names`: of the stores there are.
    """
    records = {record.uid: record for record in live}
    for uid in await store.pending_uploads():
        if uid not in records and (record := await store.load(uid)) is not None:
            records[uid] = record
    gone = Counter(name for record in records.values() for name in _stores_of(record) if name not in names)
    if gone:
        counts = ", ".join(f"{counted(count, 'operation')} in {name!r}" for name, count in sorted(gone.items()))
        raise StoreError(
            f"{store.path}: there are bytes in stores that this server does not have: of {counts}. Declare the stores "
            "again until those operations have ended, or cancel them with the version that does"
        )


def _signals(type: OperationType, sent: Sequence[tuple[str, str]]) -> list[compatibility.Mismatch]:
    """What no longer fits the signals that an operation was sent, each with the type of its payload."""
    today = {name: signal.payload.DESCRIPTOR.full_name for name, signal in type.signals.items()}
    found = (compatibility.compare_signal(name, payload, today.get(name)) for name, payload in sent)
    return [mismatch for mismatch in found if mismatch is not None]


def _stores_of(record: OperationRecord) -> set[str]:
    found = {download.store for download in record.downloads}
    return found if record.upload is None else found | {record.upload.store}


def _check_served(types: Mapping[str, OperationType], live: Sequence[OperationRecord]) -> None:
    orphans = Counter(record.type for record in live if record.type not in types)
    if orphans:
        counts = ", ".join(f"{count} of {name}" for name, count in sorted(orphans.items()))
        raise StoreError(
            f"operations of types that this server does not serve have not ended: {counts}. Serve the types again "
            "until they have, or cancel them with the version that does"
        )
