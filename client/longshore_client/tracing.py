"""Traces by OpenTelemetry: a span of each call, from which those of the server and of the operation's handler go on.

A call that is made again has a span for every try. OpenTelemetry is loaded only in a program that has set it up, or
that gives `connect` a provider; in others nothing is done, and nothing costs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Sequence

    from opentelemetry.trace import Span, TracerProvider

    Metadata = Sequence[tuple[str, str]]


def tracing(provider: TracerProvider | None) -> Tracing | None:
    """What traces calls, None for nothing.

    Args:
        provider: Whose spans they are. Default: the program's, if it has set one by now.
    """
    if provider is None:
        api = sys.modules.get("opentelemetry.trace")
        if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
            return None
        provider = api.get_tracer_provider()
    return Tracing(provider)


class Tracing:
    """Makes methods that trace themselves."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import context, trace

        self._context = context
        self._api = trace
        self._tracer = provider.get_tracer("longshore")

    def unary(self, path: str, rpc: Any) -> Any:
        """A method that answers once."""

        async def call(request: Any, /, *, timeout: float | None, metadata: Metadata | None) -> Any:
            span = self._begin(path)
            code, details = grpc.StatusCode.CANCELLED, ""
            # Current for as long as it lasts: an interceptor of somebody else's makes its span a child of this one.
            token = self._context.attach(self._api.set_span_in_context(span))
            try:
                answer = await rpc(request, timeout=timeout, metadata=self._with(span, metadata))
                code = grpc.StatusCode.OK
                return answer
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
                raise
            finally:
                self._context.detach(token)
                self._end(span, code, details)

        return call

    def stream(self, path: str, rpc: Any) -> Any:
        """A method that answers with a stream."""

        def call(request: Any, /, *, metadata: Metadata | None) -> Any:
            span = self._begin(path)
            token = self._context.attach(self._api.set_span_in_context(span))
            try:
                made = rpc(request, metadata=self._with(span, metadata))
            finally:
                self._context.detach(token)
            if not span.is_recording():
                return made
            return _Stream(made, lambda code, details="": self._end(span, code, details))

        return call

    def upload(self, path: str, rpc: Any) -> Any:
        """A method that takes a stream and answers once."""

        def call(requests: Any, /, *, metadata: Metadata | None) -> Any:
            span = self._begin(path)
            token = self._context.attach(self._api.set_span_in_context(span))
            try:
                made = rpc(requests, metadata=self._with(span, metadata))
            finally:
                self._context.detach(token)
            if not span.is_recording():
                return made
            return _Upload(made, lambda code, details="": self._end(span, code, details))

        return call

    def _begin(self, path: str) -> Span:
        service, _, method = path[1:].partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        return self._tracer.start_span(path[1:], kind=self._api.SpanKind.CLIENT, attributes=attributes)

    def _with(self, span: Span, metadata: Metadata | None) -> Metadata:
        found = span.get_span_context()
        traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
        return (*(metadata or ()), ("traceparent", traceparent))

    def _end(self, span: Span, code: grpc.StatusCode, details: str) -> None:
        if not span.is_recording():
            return
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code is not grpc.StatusCode.OK:
            span.set_status(self._api.Status(self._api.StatusCode.ERROR, details or code.name))
        span.end()


class _Upload:
    """A call whose answer, or whose caller's leaving, ends its span."""

    def __init__(self, call: Any, end: Callable[..., None]) -> None:
        self._call = call
        self._end = end
        self.add_done_callback = call.add_done_callback
        self.done = call.done

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            answer = await self._call
        except grpc.aio.AioRpcError as error:
            self._end(error.code(), error.details() or "")
            raise
        self._end(grpc.StatusCode.OK)
        return answer

    def cancel(self) -> bool:
        self._end(grpc.StatusCode.CANCELLED)
        return bool(self._call.cancel())


class _Stream:
    """A stream whose end, or whose reader's leaving, ends its span."""

    def __init__(self, call: Any, end: Callable[..., None]) -> None:
        self._call = call
        self._end = end
        self._messages: AsyncIterator[Any] = call.__aiter__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._messages)
        except StopAsyncIteration:
            self._end(grpc.StatusCode.OK)
            raise
        except grpc.aio.AioRpcError as error:
            self._end(error.code(), error.details() or "")
            raise

    def done(self) -> bool:
        return bool(self._call.done())

    def cancel(self) -> bool:
        self._end(grpc.StatusCode.CANCELLED)
        return bool(self._call.cancel())
