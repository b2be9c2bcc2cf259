"""The calls of the services that the client uses, as plain callables: one attempt each, untried and unrepeated."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
import grpc.aio

from longshore.v1 import operation_control_service_pb2 as control
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers
from longshore.v1.operation_pb2 import OperationSnapshot, UploadGrant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence

    from longshore_client.tracing import Tracing

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
ResponseT_co = TypeVar("ResponseT_co", covariant=True)

_OPERATIONS = "/longshore.v1.OperationsService/"
_TRANSFERS = "/longshore.v1.TransfersService/"
_CONTROL = "/longshore.v1.OperationControlService/"

_OWN = "Internal error from Core"
"""What grpc.aio says of a write that has failed, in place of the refusal that has made it fail (grpc#36066)."""


class UnaryRpc(Protocol[RequestT_contra, ResponseT_co]):
    """A method that answers once."""

    def __call__(
        self, request: RequestT_contra, /, *, timeout: float | None, metadata: Sequence[tuple[str, str]] | None
    ) -> Awaitable[ResponseT_co]: ...


class Probe(Protocol):
    """A method that answers once, with its request."""

    def __call__(self, *, timeout: float | None, metadata: Sequence[tuple[str, str]] | None) -> Awaitable[object]: ...


class StreamCall(Protocol[ResponseT_co]):
    """A call under way whose answers come as a stream."""

    def __aiter__(self) -> AsyncIterator[ResponseT_co]: ...
    def done(self) -> bool: ...
    def cancel(self) -> bool: ...


class StreamRpc(Protocol[RequestT_contra, ResponseT_co]):
    """A method that answers with a stream."""

    def __call__(
        self, request: RequestT_contra, /, *, metadata: Sequence[tuple[str, str]] | None
    ) -> StreamCall[ResponseT_co]: ...


class UploadCall(Protocol[ResponseT_co]):
    """A call under way that takes requests and answers once."""

    def __await__(self) -> Generator[Any, None, ResponseT_co]: ...
    def add_done_callback(self, callback: Callable[[Any], None], /) -> None: ...
    def done(self) -> bool: ...
    def cancel(self) -> bool: ...


class UploadRpc(Protocol[RequestT_contra, ResponseT_co]):
    """A method that takes requests and answers once."""

    def __call__(
        self, requests: AsyncIterator[RequestT_contra], /, *, metadata: Sequence[tuple[str, str]] | None
    ) -> UploadCall[ResponseT_co]: ...


class Cancellable(Protocol):
    """A call under way."""

    def cancel(self) -> object: ...


class Calls:
    """The server's methods, looked up once and not for every call."""

    def __init__(self, channel: grpc.aio.Channel, tracing: Tracing | None) -> None:
        self.channel = channel
        self._tracing = tracing
        self.start: UnaryRpc[pb.StartRequest, pb.StartResponse] = self._unary(
            "Start", pb.StartRequest, pb.StartResponse
        )
        self.get: UnaryRpc[pb.GetRequest, OperationSnapshot] = self._unary("Get", pb.GetRequest, OperationSnapshot)
        self.wait: UnaryRpc[pb.WaitRequest, OperationSnapshot] = self._unary("Wait", pb.WaitRequest, OperationSnapshot)
        self.cancel: UnaryRpc[pb.CancelRequest, OperationSnapshot] = self._unary(
            "Cancel", pb.CancelRequest, OperationSnapshot
        )
        self.signal: UnaryRpc[pb.SignalRequest, pb.SignalResponse] = self._unary(
            "Signal", pb.SignalRequest, pb.SignalResponse
        )
        self.stop: UnaryRpc[pb.StopRequest, OperationSnapshot] = self._unary("Stop", pb.StopRequest, OperationSnapshot)
        self.retry: UnaryRpc[pb.RetryRequest, pb.StartResponse] = self._unary(
            "Retry", pb.RetryRequest, pb.StartResponse
        )
        self.delete: UnaryRpc[pb.DeleteRequest, pb.DeleteResponse] = self._unary(
            "Delete", pb.DeleteRequest, pb.DeleteResponse
        )
        self.list: UnaryRpc[pb.ListRequest, pb.ListResponse] = self._unary("List", pb.ListRequest, pb.ListResponse)
        self.count: UnaryRpc[pb.CountRequest, pb.CountResponse] = self._unary(
            "Count", pb.CountRequest, pb.CountResponse
        )
        self.list_types: UnaryRpc[pb.ListTypesRequest, pb.ListTypesResponse] = self._unary(
            "ListTypes", pb.ListTypesRequest, pb.ListTypesResponse
        )
        self.get_type: UnaryRpc[pb.GetTypeRequest, pb.OperationType] = self._unary(
            "GetType", pb.GetTypeRequest, pb.OperationType
        )
        self.list_logs: UnaryRpc[control.ListLogsRequest, control.ListLogsResponse] = self._unary(
            "ListLogs", control.ListLogsRequest, control.ListLogsResponse, _CONTROL
        )
        self.list_steps: UnaryRpc[control.ListStepsRequest, control.ListStepsResponse] = self._unary(
            "ListSteps", control.ListStepsRequest, control.ListStepsResponse, _CONTROL
        )
        self.run: StreamRpc[pb.RunRequest, pb.WatchResponse] = self._stream("Run", pb.RunRequest, pb.WatchResponse)
        self.watch: StreamRpc[pb.WatchRequest, pb.WatchResponse] = self._stream(
            "Watch", pb.WatchRequest, pb.WatchResponse
        )
        self.query_upload: UnaryRpc[transfers.QueryUploadRequest, UploadGrant] = self._unary(
            "QueryUpload", transfers.QueryUploadRequest, UploadGrant, _TRANSFERS
        )
        self.upload: UploadRpc[bytes, transfers.UploadResponse] = self._upload()
        self.download: StreamRpc[transfers.DownloadRequest, transfers.DownloadResponse] = self._stream(
            "Download", transfers.DownloadRequest, transfers.DownloadResponse, _TRANSFERS
        )

    def unary(self, path: str, request: type[RequestT], response: type[ResponseT]) -> UnaryRpc[RequestT, ResponseT]:
        """Return a method that is not among those that are looked up at once."""
        found: UnaryRpc[RequestT, ResponseT] = self._unary(path, request, response, "")
        return found

    def _unary(self, method: str, request: Any, response: Any, service: str = _OPERATIONS) -> Any:
        path = service + method
        rpc = self.channel.unary_unary(
            path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return rpc if self._tracing is None else self._tracing.unary(path, rpc)

    def _stream(self, method: str, request: Any, response: Any, service: str = _OPERATIONS) -> Any:
        path = service + method
        rpc = self.channel.unary_stream(
            path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return rpc if self._tracing is None else self._tracing.stream(path, rpc)

    def _upload(self) -> Any:
        path = _TRANSFERS + "Upload"
        # Its requests are encoded by whoever makes them.
        method: Any = self.channel.stream_unary(path, response_deserializer=transfers.UploadResponse.FromString)

        def rpc(requests: AsyncIterator[bytes], /, *, metadata: Sequence[tuple[str, str]] | None) -> _Upload:
            return _Upload(method(requests, metadata=metadata))

        return rpc if self._tracing is None else self._tracing.upload(path, rpc)


class _Upload:
    """A call that ends with what the server has said, whatever becomes of a write beside that.

    The only one that needs it: others send their one request together with the call, and lose nothing.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._first: list[grpc.aio.AioRpcError] = []
        self.add_done_callback = call.add_done_callback
        self.done = call.done
        self.cancel = call.cancel
        # Not a method of this one: with what the call holds it would be a cycle, and kept until that is collected.
        call.add_done_callback(partial(_note, self._first))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            return await self._call
        except grpc.aio.AioRpcError as error:
            if error.details() != _OWN or not self._first:
                raise
            raise self._first.pop() from None


def _note(first: list[grpc.aio.AioRpcError], call: Any) -> None:
    """Keep what a call was refused with, where that can be known without waiting: it may soon be told otherwise."""
    known = []
    for ask in (call.code, call.details, call.trailing_metadata):
        asked = ask()
        try:
            asked.send(None)
        except StopIteration as done:
            known.append(done.value)
        else:
            asked.close()
            return
    code, details, trailing = known
    if not first and code is not grpc.StatusCode.OK:
        first.append(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details))
