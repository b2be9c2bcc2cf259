"""The vocabulary of errors: every reason that a caller can be told, once, as data.

`docs/errors.md` is generated from it. A test sees each of them on the wire, or in an operation.
"""

from __future__ import annotations

import enum
from typing import Self

from longshore_server.named import Named


class Code(Named):
    """The canonical status codes of gRPC (`google.rpc.Code`) that Longshore uses."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Again(enum.Enum):
    """Whether it makes sense to try again."""

    NO = "no"
    LATER = "yes, after `RetryInfo`"
    CHANGED = "once its state has changed"
    ANEW = "as a new operation (`Retry`)"


class Reason(enum.Enum):
    """Why: the word, the status code that it always comes with, what it means, and what to do. See docs/errors.md."""

    # fmt: off
    # Calls that are refused.
    MALFORMED_REQUEST = (
        Code.INVALID_ARGUMENT, "The bytes are not the request message.", Again.NO,
        "Send what the proto says; generated stubs do.",
    )
    INVALID_ARGUMENT = (
        Code.INVALID_ARGUMENT, "A field of the request breaks a rule; the violations name it.", Again.NO,
        "Correct the fields that the violations name.",
    )
    UNKNOWN_TYPE = (
        Code.INVALID_ARGUMENT, "No operation type has this name.", Again.NO,
        "Ask ListTypes for the types that this server serves.",
    )
    WRONG_INPUT_TYPE = (
        Code.INVALID_ARGUMENT, "The input is not of the type's input message.", Again.NO,
        "Send the message that GetType names as `input_type`.",
    )
    UNKNOWN_SIGNAL = (
        Code.INVALID_ARGUMENT, "The contract declares no signal of this name.", Again.NO,
        "Send one of the signals that GetType shows in the contract.",
    )
    WRONG_PAYLOAD_TYPE = (
        Code.INVALID_ARGUMENT, "The payload is of another message type than the contract declares.", Again.NO,
        "Send the message that the contract names for this channel or signal.",
    )
    INVALID_FILTER = (
        Code.INVALID_ARGUMENT, "The filter is not one that List understands.", Again.NO,
        "The message says what cannot be read; see the guide on lists.",
    )
    INVALID_PAGE_TOKEN = (
        Code.INVALID_ARGUMENT, "The page token was not made by this server for this request.", Again.NO,
        "Begin again without a token, or send the filter and the order of the page before.",
    )
    INVALID_NAME = (
        Code.INVALID_ARGUMENT, "The name has another form than those of what is asked for.", Again.NO,
        "Send the name as the server gave it; the message shows the form.",
    )
    UPLOAD_NOT_FOUND = (
        Code.NOT_FOUND, "No operation has this upload, or the caller may not see it.", Again.NO,
        "Take the name from `upload` of the operation's snapshot.",
    )
    DOWNLOAD_NOT_FOUND = (
        Code.NOT_FOUND, "No operation offers this download, or the caller may not see it.", Again.NO,
        "Take the name from `downloads` of the operation's snapshot.",
    )
    OBJECT_NOT_FOUND = (
        Code.NOT_FOUND, "The store has no object with this key.", Again.NO,
        "Check the key. The object may have been deleted, or never have been put there.",
    )
    OPERATION_NOT_FOUND = (
        Code.NOT_FOUND, "No operation has this name.", Again.NO,
        "Check the name. It may have been deleted, or its retention is over, or it is not for this caller to see.",
    )
    JOB_NOT_FOUND = (
        Code.NOT_FOUND, "No job has this name.", Again.NO,
        "Check the name. The job may have been deleted, or its retention is over.",
    )
    QUEUE_NOT_FOUND = (
        Code.NOT_FOUND, "The server has no queue of jobs of this name.", Again.NO,
        "Ask ListQueues for the queues that this server has.",
    )
    DEFINITION_NOT_FOUND = (
        Code.NOT_FOUND, "Nothing here defines a recurring, a debounce or a task of this name.", Again.NO,
        "Check the name between the slashes: it is the one that the service gave its definition.",
    )
    TYPE_NOT_FOUND = (
        Code.NOT_FOUND, "No operation type has this name.", Again.NO,
        "Ask ListTypes for the types that this server serves.",
    )
    SERVICE_NOT_FOUND = (
        Code.NOT_FOUND, "The server has no service of this name whose health could be asked for.", Again.NO,
        "Ask for one that reflection lists, or for the empty name, which stands for the whole server.",
    )
    REQUEST_ID_REUSED = (
        Code.ALREADY_EXISTS, "The request id was used with another input or other labels.", Again.NO,
        "Use a new request id for a new request; to repeat one, send exactly the same.",
    )
    SIGNAL_ID_REUSED = (
        Code.ALREADY_EXISTS, "The signal id was used for another signal of this operation.", Again.NO,
        "Use a new signal id for a new signal; to repeat one, send exactly the same.",
    )
    EVENT_ID_REUSED = (
        Code.ALREADY_EXISTS, "The event id was used for another event of this instance.", Again.NO,
        "Use a new event id for a new event; to repeat one, send exactly the same.",
    )
    NAME_IN_USE = (
        Code.ALREADY_EXISTS, "The name belongs to an operation of another input, or of another caller.",
        Again.NO, "Follow the operation that has the name, or send an input that makes another one.",
    )
    OBJECT_EXISTS = (
        Code.ALREADY_EXISTS, "There is an object with this key, and it may not be overwritten.", Again.NO,
        "Use another key, or delete the object first.",
    )
    CREDENTIALS_MISSING = (
        Code.UNAUTHENTICATED, "The call carries no credentials.", Again.NO,
        "Send `authorization: Bearer TOKEN`, or a client certificate.",
    )
    CREDENTIALS_INVALID = (
        Code.UNAUTHENTICATED, "The credentials are not ones that this server accepts.", Again.NO,
        "Get credentials that this server accepts; the message says what is wrong with these.",
    )
    CREDENTIALS_EXPIRED = (
        Code.UNAUTHENTICATED, "The time of the credentials is over; call again with new ones.", Again.NO,
        "Get new credentials and call again; a watch resumes after its last sequence.",
    )
    CAPABILITY_MISSING = (
        Code.PERMISSION_DENIED, "The caller lacks a capability that the contract's gate asks for.", Again.NO,
        "Ask for the capabilities that the gate in the metadata wants.",
    )
    NOT_THE_OWNER = (
        Code.PERMISSION_DENIED, "Only who started the operation may send its bytes.", Again.NO,
        "Start an operation of your own.",
    )
    INPUT_TOO_LARGE = (
        Code.RESOURCE_EXHAUSTED, "The input is larger than the server accepts.", Again.NO,
        "Send less; the metadata tells the limit.",
    )
    TOO_MANY_OPERATIONS = (
        Code.RESOURCE_EXHAUSTED, "Too many operations wait or run already; try again later.", Again.LATER,
        "Wait, and start fewer at a time.",
    )
    TOO_MANY_SIGNALS = (
        Code.RESOURCE_EXHAUSTED, "As many signals of this name wait as the contract allows.", Again.LATER,
        "Wait until the handler has consumed some.",
    )
    TOO_MANY_EVENTS = (
        Code.RESOURCE_EXHAUSTED, "As much waits for the handlers of this instance as may.", Again.LATER,
        "Wait until they have come along, or find out why they do not.",
    )
    STATE_TOO_LARGE = (
        Code.RESOURCE_EXHAUSTED, "The state of the instance would have more bytes than the server keeps.", Again.NO,
        "Keep a reference to what is large; the server's `max_payload` is the limit.",
    )
    TOO_MANY_WATCHES = (
        Code.RESOURCE_EXHAUSTED, "Too many watches, or waits, are open already; try again later.", Again.LATER,
        "Wait, or end watches that nobody needs.",
    )
    TOO_MUCH_UNACKNOWLEDGED = (
        Code.RESOURCE_EXHAUSTED, "More reports wait to be durable than may; await them.", Again.NO,
        "In a handler: await what `op.progress` and `op.output` return.",
    )
    UPLOAD_TOO_LARGE = (
        Code.RESOURCE_EXHAUSTED, "The upload has more bytes than its contract or its store allows.", Again.NO,
        "Send less: the metadata `limit` says how much.",
    )
    TOO_MANY_JOBS = (
        Code.RESOURCE_EXHAUSTED, "As many jobs of the queue have not ended as there may be.", Again.LATER,
        "Operators: look at `longshore jobs queues`; the metadata `queue` says which, and `limit` how many.",
    )
    TOO_MANY_TRANSFERS = (
        Code.RESOURCE_EXHAUSTED, "As many transfers are under way as the server, or this caller, may have.",
        Again.LATER, "Try again after the delay; what was sent is kept.",
    )
    DOWNLOAD_USED_UP = (
        Code.RESOURCE_EXHAUSTED, "The download was fetched as often as it may be.", Again.NO,
        "Ask for a new one: start the operation once more.",
    )
    STORE_FULL = (
        Code.RESOURCE_EXHAUSTED, "There is no room for the bytes; what is durable already is kept.", Again.LATER,
        "Operators: make room; nothing has to be started again.",
    )
    UPLOAD_PREEMPTED = (
        Code.ABORTED, "Another call has taken the upload over.", Again.NO,
        "Nothing, where the other call is yours; else QueryUpload, and send what is missing.",
    )
    CHUNK_CORRUPT = (
        Code.DATA_LOSS, "A chunk's CRC32C does not fit its bytes.", Again.CHANGED,
        "QueryUpload, and send the bytes after the committed ones again.",
    )
    OBJECT_CORRUPT = (
        Code.DATA_LOSS, "The bytes in the store are not those that were stored.", Again.NO,
        "Operators: restore the object from where it came.",
    )
    SIZE_MISMATCH = (
        Code.FAILED_PRECONDITION, "The commit names another size than the bytes that have come.", Again.CHANGED,
        "QueryUpload, send what is missing, and commit the right size.",
    )
    DIGEST_MISMATCH = (
        Code.FAILED_PRECONDITION, "The commit names another SHA-256 than the bytes have.", Again.CHANGED,
        "Commit the digest of what was sent, or start a new operation and send the bytes again.",
    )
    CHECKSUM_REQUIRED = (
        Code.FAILED_PRECONDITION, "The contract wants a CRC32C with every chunk and a SHA-256 with the commit.",
        Again.CHANGED, "Send them.",
    )
    KEY_CONFLICT = (
        Code.FAILED_PRECONDITION, "The key is a folder of other objects, or has an object as one of its folders.",
        Again.NO, "Start an operation with another key, or remove what is in the way first.",
    )
    UPLOAD_COMMITTED = (
        Code.FAILED_PRECONDITION, "The upload takes no more bytes: it is committed.", Again.NO,
        "Nothing, where the bytes are yours; else start a new operation.",
    )
    UPLOAD_EXPIRED = (
        Code.FAILED_PRECONDITION, "No byte of the upload came for as long as its contract allows.", Again.NO,
        "Start the operation again, and send the bytes without such a pause.",
    )
    UPLOAD_ABORTED = (
        Code.FAILED_PRECONDITION, "The upload was given up, by its caller or by the end of its operation.", Again.NO,
        "Start the operation again.",
    )
    DOWNLOAD_EXPIRED = (
        Code.FAILED_PRECONDITION, "The download was offered for a time, and that is over.", Again.NO,
        "Ask for a new one: start the operation once more.",
    )
    DOWNLOAD_REVOKED = (
        Code.FAILED_PRECONDITION, "The offer of these bytes was taken back.", Again.NO, "Nothing: somebody wanted it.",
    )
    DOWNLOAD_CHANGED = (
        Code.FAILED_PRECONDITION, "Another object has taken the key since the first part was fetched.", Again.CHANGED,
        "Fetch it from its beginning.",
    )
    WRONG_OFFSET = (
        Code.OUT_OF_RANGE, "The bytes do not begin where the last durable ones end.", Again.CHANGED,
        "Go on at the metadata's `committed_size`.",
    )
    OFFSET_OUT_OF_RANGE = (
        Code.OUT_OF_RANGE, "The object is shorter than that.", Again.NO, "The metadata `size` says how long it is.",
    )
    NOT_CANCELLABLE = (
        Code.FAILED_PRECONDITION, "The contract does not let callers cancel.", Again.NO,
        "Wait for its end; its type declares no cancellation.",
    )
    OPERATION_RUNNING = (
        Code.FAILED_PRECONDITION, "The operation has not ended.", Again.CHANGED,
        "Cancel it, or wait for its end.",
    )
    NOT_RETRIABLE = (
        Code.FAILED_PRECONDITION, "The service's own code had accepted the operation: no handler ran it.", Again.NO,
        "Ask the service for another one: what it accepts is driven by its own code.",
    )
    VERSION_MISMATCH = (
        Code.FAILED_PRECONDITION, "The instance is at another version than expected, or is being changed.",
        Again.CHANGED, "Read its state and its version again, then decide again.",
    )
    EVENT_NOT_TAKEN = (
        Code.FAILED_PRECONDITION, "The definition's `on_event` raised at the event, and nothing of it is kept.",
        Again.NO, "Send an event that it can take; the server's log has the trace.",
    )
    STATE_UNREADABLE = (
        Code.FAILED_PRECONDITION, "What is stored is nothing that the definition of today can read.", Again.CHANGED,
        "Operators: serve a definition that reads it, then resume the instance; it is kept as it is.",
    )
    UID_MISMATCH = (
        Code.FAILED_PRECONDITION, "The name now belongs to another operation.", Again.NO,
        "Follow the operation that you mean as `operations/{uid}`.",
    )
    ILLEGAL_MOVE = (
        Code.FAILED_PRECONDITION, "The state of the operation or job does not allow it.", Again.CHANGED,
        "Get the operation or job: its state says what can be done.",
    )
    QUEUE_NOT_SERVED = (
        Code.FAILED_PRECONDITION, "The job is of a queue that the server does not have any more.", Again.NO,
        "Declare the queue again to run the job again, or dismiss it.",
    )
    OPERATION_ENDED = (
        Code.FAILED_PRECONDITION, "The operation has already ended.", Again.NO,
        "Get the operation: its outcome is there.",
    )
    NO_CANCEL_REQUEST = (
        Code.FAILED_PRECONDITION, "Nobody asked to cancel the operation.", Again.CHANGED,
        "Only a cancel request can be acknowledged; the provider's own CancelOperation needs none.",
    )
    SIGNAL_CONSUMED = (
        Code.FAILED_PRECONDITION, "The signal is consumed already, or was never accepted.", Again.NO,
        "Go on: nobody gets it again.",
    )
    STALE_ATTEMPT = (
        Code.FAILED_PRECONDITION, "This attempt is no longer the operation's current one.", Again.NO,
        "In a handler: stop. Another attempt has the operation, or it has ended.",
    )
    SEQUENCE_OUT_OF_RANGE = (
        Code.OUT_OF_RANGE, "The log has no such sequence yet.", Again.NO,
        "Get the operation: its `sequence` is the last one. After a restore of the data directory begin anew.",
    )
    NOT_SUPPORTED = (
        Code.UNIMPLEMENTED, "This kind of store cannot do it.", Again.NO, "Do without, or declare another store.",
    )
    UNSUPPORTED_FIELD = Code.UNIMPLEMENTED, "This server does not support the field.", Again.NO, "Leave the field out."
    SERVER_STARTING = (
        Code.UNAVAILABLE, "The server is starting; try again.", Again.LATER,
        "Nothing; clients of ours come again by themselves.",
    )
    SERVER_DRAINING = (
        Code.UNAVAILABLE, "The server is shutting down; try again, on the next one.", Again.LATER,
        "Nothing; clients of ours come again by themselves.",
    )
    IDENTITY_UNAVAILABLE = (
        Code.UNAVAILABLE, "What proves who calls cannot be asked for now; try again.", Again.LATER,
        "Operators: look whether the issuer's keys can be reached.",
    )
    STORE_UNAVAILABLE = (
        Code.UNAVAILABLE, "The store cannot write now; nothing was changed.", Again.LATER,
        "Operators: look at the disk, or at the remote store; the message says what it answered.",
    )
    INTERNAL = (
        Code.INTERNAL, "Something unexpected went wrong; the server's log has the trace.", Again.NO,
        "Operators: look into the server's log.",
    )

    # Operations that end without a result, and attempts that end without an outcome.
    HANDLER_ERROR = (
        Code.UNKNOWN, "The handler raised an error that is not for callers; the server's log has the trace.",
        Again.ANEW, "Authors of handlers: raise `OperationError` for what callers should know.",
    )
    DEADLINE_EXCEEDED = (
        Code.DEADLINE_EXCEEDED, "The operation did not end before its deadline.", Again.ANEW,
        "Look at what it waited for. The contract's `timeout` is counted from acceptance.",
    )
    ATTEMPT_TIMEOUT = (
        Code.DEADLINE_EXCEEDED, "The attempt took longer than the contract allows.", Again.ANEW,
        "Look at what it waited for; the contract's `retry` could have made another attempt.",
    )
    STEP_TIMEOUT = (
        Code.DEADLINE_EXCEEDED, "A step of the handler took longer than it may.", Again.ANEW,
        "Operators: the server's log names the step. Authors of handlers: a step's `retry` could have tried it again.",
    )
    INTERRUPTED = (
        Code.ABORTED, "The server stopped while the attempt was under way.", Again.ANEW,
        "The contract says `on_crash: ON_CRASH_FAIL`: find out what was done before it is done again.",
    )
    CRASH_LOOP = (
        Code.ABORTED, "The operation was part of as many crashes as the contract allows.", Again.NO,
        "Operators: find out why the server dies of it before it is started again.",
    )
    NON_DETERMINISTIC = (
        Code.ABORTED, "A re-run asked for something else than the journal has recorded.", Again.ANEW,
        "Authors of handlers: the message shows both sides. Durable calls must come in the recorded order.",
    )
    ATTACH_NOT_TERMINAL = (
        Code.INTERNAL, "What was attached to the operation returned without ending it.", Again.ANEW,
        "Authors of handlers: what is attached must return a result or end the operation.",
    )
    REPLACED = (
        Code.ABORTED, "Newer work with the same key has taken its place.", Again.NO,
        "Nothing: the newer work does what is to be done.",
    )
    HEARTBEAT_LOST = (
        Code.ABORTED, "Nothing was heard of the work for longer than its queue allows.", Again.ANEW,
        "Authors of jobs: call `job.heartbeat()` or report progress more often, or allow more time.",
    )
    PAYLOAD_UNREADABLE = (
        Code.INTERNAL, "What was to be worked on cannot be read by the code of today.", Again.NO,
        "Operators: bring back the code that reads it, and replay the job.",
    )
    FAILED = (
        Code.UNKNOWN, "The provider ended the operation with an error that gives no reason of its own.", Again.ANEW,
        "Providers: put a `google.rpc.ErrorInfo` first into the details.",
    )
    RESULT_TOO_LARGE = (
        Code.RESOURCE_EXHAUSTED, "The result is larger than a caller could receive.", Again.NO,
        "Authors of handlers: return a reference to what is large.",
    )
    WRONG_RESULT_TYPE = (
        Code.INTERNAL, "The handler returned something else than the contract's result message.", Again.NO,
        "Authors of handlers: return the contract's result message; mypy finds it before.",
    )
    CANCELLED = Code.CANCELLED, "The operation was cancelled.", Again.ANEW, "Nothing: somebody wanted it."
    # fmt: on

    def __init__(self, code: Code, meaning: str, again: Again, action: str) -> None:
        self.code = code
        self.meaning = meaning
        self.again = again
        self.action = action

    def __new__(cls, code: Code, *_: object) -> Self:
        member = object.__new__(cls)
        # Reasons share codes: without a value of its own the second of a code would become an alias of the first.
        member._value_ = (len(cls.__members__), code)
        return member

    @property
    def ends(self) -> bool:
        """Whether it tells how an operation ended, and not why a call was refused."""
        return bool(self.value >= Reason.HANDLER_ERROR.value)

    @property
    def details(self) -> tuple[str, ...]:
        """The messages of `google.rpc` that a refusal carries, always."""
        found = ["ErrorInfo"]
        if self.ends:
            return tuple(found)
        if (self.code is Code.INVALID_ARGUMENT and self is not Reason.MALFORMED_REQUEST) or self in _OF_FIELDS:
            found.append("BadRequest")
        if self.code is Code.FAILED_PRECONDITION:
            found.append("PreconditionFailure")
        if self.code in (Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE) or self in _OF_RESOURCES:
            found.append("ResourceInfo")
        if self.again is Again.LATER:
            found.append("RetryInfo")
        return tuple(found)


_OF_FIELDS = frozenset({Reason.UNSUPPORTED_FIELD})
_OF_RESOURCES = frozenset(
    {
        Reason.SIGNAL_ID_REUSED, Reason.NAME_IN_USE, Reason.TOO_MANY_SIGNALS, Reason.EVENT_ID_REUSED,
        Reason.TOO_MANY_EVENTS,
    }
)  # fmt: skip


def table(*, ends: bool) -> str:
    """The reasons as the text of a Markdown table: those of operations that end, or those of calls that are refused."""
    title = "start it again?" if ends else "try again?"
    # What an operation ends with carries its ErrorInfo and nothing more.
    columns = ["reason", "status code", "what it means", *([] if ends else ["details"]), title, "what to do"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for reason in Reason:
        if reason.ends is ends:
            # `ErrorInfo` is in each of them.
            details = [] if ends else [", ".join(f"`{name}`" for name in reason.details[1:])]
            cells = [f"`{reason.name}`", reason.code.name, reason.meaning, *details, reason.again.value, reason.action]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
