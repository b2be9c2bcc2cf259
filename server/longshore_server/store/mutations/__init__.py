"""Everything that can be done to the store: each a small value with guards, applied inside the writer's transaction.

A mutation either raises `ServiceError` before it has changed anything, or does all of its work. What `apply` returns
is its outcome; callers get it once the commit that holds it is durable.
"""

from __future__ import annotations

from longshore_server.store.mutations.attempt import Begin, Defer, Interrupt, Record, Report, TryAgain
from longshore_server.store.mutations.base import Author, Mutation, OperationAttempt, Owner
from longshore_server.store.mutations.log import AddLine, FailTry
from longshore_server.store.mutations.settle import (
    AcknowledgeCancel,
    ProviderCancel,
    RequestCancel,
    RequestStop,
    Settle,
    TakeOver,
)
from longshore_server.store.mutations.signal import ConsumeNext, ConsumeSignal, SendSignal, SignalAccepted
from longshore_server.store.mutations.start import BY_HOST, Accept, Accepted
from longshore_server.store.mutations.transfer import (
    AdvanceUpload,
    CommitUpload,
    FailUpload,
    FinishUpload,
    ForgetGarbage,
    MarkPlace,
    OfferDownload,
    PlaceUpload,
    RevokeDownload,
    UseDownload,
)
from longshore_server.store.mutations.upkeep import (
    Boot,
    ContractVersion,
    Delete,
    Nothing,
    RunApart,
    Shutdown,
    StoreContracts,
    Sweep,
    SweepInstances,
    SweepLeftovers,
)

__all__ = [
    "BY_HOST", "Accept", "Accepted", "AcknowledgeCancel", "AddLine", "AdvanceUpload", "Author", "Begin", "Boot",
    "CommitUpload", "ConsumeNext", "ConsumeSignal", "ContractVersion", "Defer", "Delete", "FailTry", "FailUpload",
    "FinishUpload", "ForgetGarbage", "Interrupt", "MarkPlace", "Mutation", "Nothing", "OfferDownload",
    "OperationAttempt", "Owner", "PlaceUpload", "ProviderCancel", "Record", "Report", "RequestCancel", "RequestStop",
    "RevokeDownload", "RunApart", "SendSignal", "Settle", "Shutdown", "SignalAccepted", "StoreContracts", "Sweep",
    "SweepInstances", "SweepLeftovers", "TakeOver", "TryAgain", "UseDownload",
]  # fmt: skip
