"""The bytes of an operation type, as its contract declares them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import Message

from longshore.v1 import annotations_pb2
from longshore_server import keys
from longshore_server.clock import SECOND
from longshore_server.contract import fields
from longshore_server.contract.source import Declaration, hint
from longshore_server.errors import invalid

EXPIRY = 3600 * SECOND
_SEND_ONLY = (
    "metadata_path", "max_bytes", "require_checksum", "refuse_existing", "delete_with_operation", "on_mismatch",
)  # fmt: skip


class Declared(NamedTuple):
    """What an input says of the object that belongs to its operation."""

    key: str
    """Empty: the handler says it."""
    content_type: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Transfer:
    """What operations of a type send or receive. Durations in microseconds."""

    sends: bool
    """Whether callers send the bytes."""
    store: str
    key: Sequence[str]
    """Path of the input field; empty: the handler says it."""
    content_type: Sequence[str]
    metadata: Sequence[str]
    max_bytes: int
    expiry: int
    require_checksum: bool
    refuse_existing: bool
    drop_mismatch: bool
    owned: bool
    """Whether the object is deleted with the operation."""
    max_uses: int

    def declared(self, input: Message) -> Declared:
        """What an input says of the object. Raises `ServiceError` (INVALID_ARGUMENT) naming the field."""
        return Declared(
            _key(input, self.key) if self.key else "", _content_type(input, self.content_type),
            _metadata(input, self.metadata),
        )  # fmt: skip


def read_transfer(declaration: Declaration, stores: Collection[str] | None) -> Transfer | None:
    """What the contract says; None: nothing. Raises `ContractError`.

    `stores`: the names of those that the server has; None: not known here.
    """
    if not declaration.contract.HasField("transfer"):
        return None
    said = declaration.contract.transfer

    sends = said.direction == annotations_pb2.TRANSFER_DIRECTION_SEND
    if not sends and said.direction != annotations_pb2.TRANSFER_DIRECTION_RECEIVE:
        problem = "it must be TRANSFER_DIRECTION_SEND or TRANSFER_DIRECTION_RECEIVE"
        raise declaration.error("transfer.direction", problem)
    if not said.store:
        raise declaration.error("transfer.store", "it must name the store resource that keeps the bytes")
    if stores is not None and said.store not in stores:
        others = f"only {', '.join(sorted(stores))}" if stores else "and no other"
        raise declaration.error(
            "transfer.store",
            f"the server has no store of this name, {others}: Server(stores={{{said.store!r}: LocalStore()}}) declares "
            f"it, or [stores.{said.store}] in the configuration{hint(said.store, stores)}",
        )
    if sends and not said.key_path:
        raise declaration.error("transfer.key_path", "it must name the input field that holds the object's key")
    if sends and said.max_uses:
        raise declaration.error("transfer.max_uses", "it means nothing with TRANSFER_DIRECTION_SEND")
    if not sends:
        for option in _SEND_ONLY:
            if getattr(said, option):
                raise declaration.error(f"transfer.{option}", "it means nothing with TRANSFER_DIRECTION_RECEIVE")
    if said.max_bytes < 0:
        raise declaration.error("transfer.max_bytes", "it must not be negative; leave it out for the store's own bound")
    if said.max_uses < 0:
        raise declaration.error("transfer.max_uses", "it must not be negative; leave it out for no bound")
    if said.on_mismatch not in annotations_pb2.OnMismatch.values():
        raise declaration.error("transfer.on_mismatch", f"{said.on_mismatch} is not a value that this version knows")
    return Transfer(
        sends=sends, store=said.store, key=_path(declaration, "key_path"),
        content_type=_path(declaration, "content_type_path"), metadata=_path(declaration, "metadata_path", map=True),
        max_bytes=said.max_bytes, expiry=declaration.duration("transfer.expiry") or EXPIRY,
        require_checksum=said.require_checksum, refuse_existing=said.refuse_existing,
        drop_mismatch=said.on_mismatch == annotations_pb2.ON_MISMATCH_DROP, owned=said.delete_with_operation,
        max_uses=said.max_uses,
    )  # fmt: skip


def _path(declaration: Declaration, option: str, *, map: bool = False) -> Sequence[str]:
    dotted, input = getattr(declaration.contract.transfer, option), declaration.method.input_type
    if not dotted:
        return ()
    try:
        names, field = fields.follow(dotted, input)
    except ValueError as error:
        raise declaration.error(f"transfer.{option}", str(error)) from None
    if not (fields.is_string_map if map else fields.is_string)(field):
        wanted = "a map of strings" if map else "a single string field"
        raise declaration.error(f"transfer.{option}", f"{dotted!r} must be {wanted} of {input.full_name}")
    return names


def _key(input: Message, path: Sequence[str]) -> str:
    key = str(fields.value(input, path))
    try:
        keys.check(key)
    except ValueError as error:
        raise invalid(".".join(path), str(error)) from None
    return key


def _content_type(input: Message, path: Sequence[str]) -> str:
    if not path:
        return ""
    found = str(fields.value(input, path))
    try:
        keys.check_content_type(found)
    except ValueError as error:
        raise invalid(".".join(path), str(error)) from None
    return found


def _metadata(input: Message, path: Sequence[str]) -> dict[str, str]:
    if not path:
        return {}
    found: dict[str, str] = dict(fields.value(input, path))
    try:
        keys.check_metadata(found)
    except ValueError as error:
        raise invalid(".".join(path), str(error)) from None
    return found
