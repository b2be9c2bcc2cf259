"""Longshore's server: operations declared in proto, handled by asyncio code, durable in one SQLite file."""

from __future__ import annotations

from longshore_server.auth.identity import Authenticator, Credentials, Principal, unauthenticated
from longshore_server.clock import Clock, SystemClock
from longshore_server.config import Config, ConfigError
from longshore_server.contract.source import ContractError
from longshore_server.engine.host import OperationEndedError, OperationRef, Operations
from longshore_server.engine.provider import OperationControl
from longshore_server.errors import Code, OperationError, Reason, ServiceError
from longshore_server.handler.facts import Caller, Recovery
from longshore_server.handler.journal import DuplicateNameError, NonDeterministicError
from longshore_server.handler.offers import Offer, TransferError
from longshore_server.handler.operation import Operation
from longshore_server.handler.running import step
from longshore_server.handler.signals import Signal
from longshore_server.handler.steps import NestedStepError, StepRetry, StepTimeoutError
from longshore_server.handler.transfer import ByteProgress, ReceivedObject, Transfer
from longshore_server.instance_lifecycle import Status as InstanceStatus
from longshore_server.instances.debounce import DebounceContext, EventContext, FlushReason
from longshore_server.instances.recurring import RecurringContext
from longshore_server.instances.task import (
    ErrorContext,
    ExecuteContext,
    IdleContext,
    Task,
    TaskContext,
    TaskEventContext,
)
from longshore_server.job_lifecycle import JobState
from longshore_server.jobs.context import Job
from longshore_server.jobs.definition import JobRetry, Rate
from longshore_server.jobs.outcomes import (
    Accepted,
    Coalesced,
    JobCancelledError,
    JobFailedError,
    JobNotEnqueuedError,
    Rejected,
    Replaced,
)
from longshore_server.jobs.planned import PlannedJob
from longshore_server.jobs.queue import JobQueue, JobRequest
from longshore_server.jobs.refs import JobRef, JobSnapshot
from longshore_server.server import Running, Server
from longshore_server.store.database import StoreError
from longshore_server.telemetry.sinks import EventSink, EventsRefusedError, LifecycleEvent
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores import LocalStore, Store

__all__ = [
    "Accepted",
    "Authenticator",
    "ByteProgress",
    "Caller",
    "Clock",
    "Coalesced",
    "Code",
    "Config",
    "ConfigError",
    "ContractError",
    "Credentials",
    "DebounceContext",
    "DuplicateNameError",
    "ErrorContext",
    "EventContext",
    "EventSink",
    "EventsRefusedError",
    "ExecuteContext",
    "FlushReason",
    "IdleContext",
    "InstanceStatus",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "JobNotEnqueuedError",
    "JobQueue",
    "JobRef",
    "JobRequest",
    "JobRetry",
    "JobSnapshot",
    "JobState",
    "LifecycleEvent",
    "LocalStore",
    "NestedStepError",
    "NonDeterministicError",
    "ObjectError",
    "ObjectInfo",
    "Offer",
    "Operation",
    "OperationControl",
    "OperationEndedError",
    "OperationError",
    "OperationRef",
    "Operations",
    "PlannedJob",
    "Principal",
    "Rate",
    "Reason",
    "ReceivedObject",
    "Recovery",
    "RecurringContext",
    "Rejected",
    "Replaced",
    "Running",
    "Server",
    "ServiceError",
    "Signal",
    "StepRetry",
    "StepTimeoutError",
    "Store",
    "StoreError",
    "SystemClock",
    "Task",
    "TaskContext",
    "TaskEventContext",
    "Transfer",
    "TransferError",
    "step",
    "unauthenticated",
]
