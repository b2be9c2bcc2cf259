"""The spans of OpenTelemetry: one of each call, attempt and step. The only module that imports it.

An operation belongs to the trace of whoever started it: every attempt is a child of the call that brought the start,
also after a restart, since the call's `traceparent` is stored with the operation. A link would be the other way. But
viewers draw one trace, and show what is linked as a reference to somewhere else, if at all; and samplers decide by the
parent, so that with links the attempts of a sampled call would be sampled or not by a chance of their own.

The sampler is asked once for an operation, at the call, and before there is a span: of what it does not take none is
made, neither of the call nor of anything below. What is current there only carries the decision on to the handler's own
spans and calls.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from longshore_server.errors import Code
from longshore_server.tracer import UNRECORDED, Metadata, Span

_ROOT = Context()
(_SPAN,) = set_span_in_context(INVALID_SPAN, _ROOT)
"""Where a context keeps its span. To look there takes a quarter of what the API's functions take, and is done for each
call, row and attempt."""
_NOTHING = nullcontext()
_SERVER = SpanKind.SERVER  # an enum looks for its member each time
_KEY = "traceparent"
_OWN = "own"
"""Stored with an operation that nobody's call has started: each of its attempts may begin a trace."""
_LENGTH = 55
_LOW = (1 << 64) - 1
_HEX = frozenset("0123456789abcdef")

# What the conventions of OpenTelemetry call a fault of the server, and not of its caller.
_FAULTS = frozenset({
    Code.UNKNOWN.name, Code.DEADLINE_EXCEEDED.name, Code.UNIMPLEMENTED.name, Code.INTERNAL.name, Code.UNAVAILABLE.name,
    Code.DATA_LOSS.name,
})  # fmt: skip
_NUMBERS = {"OK": 0} | {code.name: int(code) for code in Code}


class _Recorded(Span):
    """A span that is recorded."""

    __slots__ = ("_span",)

    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def note(self, error: BaseException) -> None:
        self._span.record_exception(error)


class _Call(_Recorded):
    """A call; its outcome is the name of a status code."""

    __slots__ = ()

    def end(self, outcome: str, problem: str = "") -> None:  # noqa: ARG002 - the code says all
        self._span.set_attribute("rpc.grpc.status_code", _NUMBERS[outcome])
        if outcome in _FAULTS:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _Attempt(_Recorded):
    """An attempt; a problem is the reason of its failure."""

    __slots__ = ()

    def end(self, outcome: str, problem: str = "") -> None:
        self._span.set_attribute("longshore.outcome", outcome)
        if problem:
            self._span.set_status(Status(StatusCode.ERROR, problem))
        self._span.end()


class _Unsampled(NonRecordingSpan):
    """What is current where the sampler has begun no trace. Its ids are made for the first who asks: hardly anybody."""

    _context = INVALID_SPAN_CONTEXT

    def __init__(self) -> None:
        pass  # nothing is set: every call that is not sampled makes one

    def get_span_context(self) -> SpanContext:
        if self._context is INVALID_SPAN_CONTEXT:
            self._context = SpanContext(random.getrandbits(128) or 1, random.getrandbits(64) or 1, is_remote=False)
        return self._context


class _Told:
    """The sampler and the generator of ids of a tracer whose spans are decided on before: both repeat what was said."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids
        self.said: Any = None
        self.trace = 0

    def should_sample(self, *_: Any) -> Any:
        """As that of a sampler."""
        return self.said

    def generate_trace_id(self) -> int:
        """As that of a generator of ids, whose other methods are those of the program's own."""
        return self.trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ids, name)


class _Head:
    """Makes spans of what the sampler takes, and of nothing else.

    The SDK asks its sampler while it makes a span, which it makes in any case. So the sampler is asked here, and a
    tracer that is told makes the span.

    Args:
        tracer: one of the SDK's.
    """

    def __init__(self, tracer: Any) -> None:
        self._sampler, self._ids = tracer.sampler, tracer.id_generator
        self._bound = _bound(tracer.sampler)
        self._told = _Told(tracer.id_generator)
        self._tracer = copy.copy(tracer)
        self._tracer.sampler = self._tracer.id_generator = self._told

    def start_span(
        self, name: str, sender: SpanContext | None, kind: SpanKind, attributes: Mapping[str, Any]
    ) -> OtelSpan:
        """A span below that of `sender`; None: it begins a trace."""
        trace = self._ids.generate_trace_id() if sender is None else sender.trace_id
        if sender is None and trace & _LOW >= self._bound:
            return _Unsampled()
        parent = _below(sender)
        said = self._sampler.should_sample(parent, trace, name, kind, attributes, ())
        if said.decision.is_recording():
            self._told.said, self._told.trace = said, trace
            span: OtelSpan = self._tracer.start_span(name, parent, kind, attributes)
            return span
        if sender is None:
            return _Unsampled()
        if not sender.trace_flags.sampled:
            return NonRecordingSpan(sender)
        # Whoever changes the caller's word must not say so under the caller's id.
        return NonRecordingSpan(SpanContext(sender.trace_id, self._ids.generate_span_id(), is_remote=False))


def _bound(sampler: Any) -> int:
    """From which number on (of their lower 64 bits) ids of traces that begin here are for sure not sampled.

    Known of the SDK's own sampler by a share, also as what `ParentBased` asks for traces that begin: to ask these takes
    nearly as long as all else that is done for such a call. Of others nothing is known: no id is that high.
    """
    sampling = sys.modules.get("opentelemetry.sdk.trace.sampling")
    if sampling is not None:
        if type(sampler).should_sample is sampling.ParentBased.should_sample:
            sampler = getattr(sampler, "_root", None)
        if type(sampler) is sampling.TraceIdRatioBased:
            return int(sampler.bound)
    return _LOW + 1


def _below(sender: SpanContext | None) -> Context:
    """What a span of the SDK takes for its parent."""
    return _ROOT if sender is None else set_span_in_context(NonRecordingSpan(sender), _ROOT)


def _make_current(span: OtelSpan, around: Context) -> None:
    """`attach`, in what is current."""
    attach(Context({**around, _SPAN: span} if around else {_SPAN: span}))


class Spans:
    """The backend of a `Tracer`.

    Args:
        provider: whose spans they are.
        outside: the span that was current where the server began to listen.
    """

    def __init__(self, provider: TracerProvider, outside: OtelSpan | None) -> None:
        self._tracer = provider.get_tracer("longshore")
        sampled_by_sdk = hasattr(self._tracer, "sampler") and hasattr(self._tracer, "id_generator")
        self._start_span = _Head(self._tracer).start_span if sampled_by_sdk else self._start_anyway
        self._outside = outside
        self._paths: dict[str, tuple[str, Mapping[str, str]]] = {}

    def call(self, path: str, metadata: Metadata) -> Span:
        """See `Tracer`. Every call has a task and so a context of its own: what is made current there ends with it."""
        around = get_current()
        if around and self._is_spanned(around):
            return UNRECORDED
        sender = None
        for key, value in metadata() or ():
            if key == _KEY:
                sender = _remote(value)
                break
        known = self._paths.get(path)
        if known is None:
            service, _, method = path[1:].partition("/")
            attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
            known = self._paths[path] = (path[1:], attributes)
        span = self._start_span(known[0], sender, _SERVER, known[1])
        _make_current(span, around)
        return _Call(span) if span.is_recording() else UNRECORDED

    def _is_spanned(self, around: Context) -> bool:
        """Whether an interceptor of somebody else's has made the span of this call."""
        current: Any = around.get(_SPAN, INVALID_SPAN)
        return current is not INVALID_SPAN and current is not self._outside and current.get_span_context().is_valid

    def _start_anyway(
        self, name: str, sender: SpanContext | None, kind: SpanKind, attributes: Mapping[str, Any]
    ) -> OtelSpan:
        return self._tracer.start_span(name, _below(sender), kind, attributes)

    def attempt(self, operation: str, type: str, number: int, trace: str) -> Span:
        """See `Tracer`. The context of an attempt's task is its own, too."""
        if not trace:
            _make_current(_Unsampled(), get_current())
            return UNRECORDED
        start = _remote(trace)
        if start is not None and not start.trace_flags.sampled:
            _make_current(NonRecordingSpan(start), get_current())
            return UNRECORDED
        span = self._start_span(
            f"attempt {type}",
            start,
            # Its caller does not wait for it: to viewers it is an entry of its own, like the receipt of a message.
            SpanKind.CONSUMER,
            {"longshore.operation": operation, "longshore.type": type, "longshore.attempt": number},
        )
        _make_current(span, get_current())
        return _Attempt(span) if span.is_recording() else UNRECORDED

    def step(self, name: str) -> AbstractContextManager[object]:
        """See `Tracer`."""
        span: Any = get_current().get(_SPAN, INVALID_SPAN)
        if not span.is_recording():
            return _NOTHING
        return self._tracer.start_as_current_span(f"step {name}", attributes={"longshore.step": name})

    def traceparent(self) -> str:
        """See `Tracer`."""
        span: Any = get_current().get(_SPAN, INVALID_SPAN)
        if isinstance(span, _Unsampled):
            return ""
        found = span.get_span_context()
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else _OWN


def _remote(traceparent: str | bytes) -> SpanContext | None:
    """What a W3C traceparent of any version says; None for what is none, or has an id of zeros."""
    if not isinstance(traceparent, str) or len(traceparent) < _LENGTH:
        return None
    version, trace, span, flags = traceparent[:2], traceparent[3:35], traceparent[36:52], traceparent[53:55]
    dashes = traceparent[2] + traceparent[35] + traceparent[52]
    longer = len(traceparent) > _LENGTH and (version == "00" or traceparent[_LENGTH] != "-")
    if dashes != "---" or longer or version == "ff" or not _HEX.issuperset(version + trace + span + flags):
        return None
    found = SpanContext(int(trace, 16), int(span, 16), True, TraceFlags(int(flags, 16) & TraceFlags.SAMPLED))
    return found if found.is_valid else None
