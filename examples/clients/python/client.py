"""Orders and documents from Python, with grpcio and generated stubs alone: nothing of Longshore's own client.

python client.py ADDRESS STORY KEY [FILE]
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
from acme.documents.v1 import documents_pb2, documents_pb2_grpc
from acme.orders.v1 import orders_pb2, orders_pb2_grpc
from google.api_core import operation, operations_v1
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (JSON of a status names its details' types)

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc, transfers_service_pb2_grpc
from longshore.v1 import transfers_service_pb2 as bytes_pb
from longshore.v1.operation_pb2 import OperationEvent, OperationSnapshot

CHUNK = 64 << 10


class Client:
    """Every public method is a story; `key` names what it is about."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.orders = orders_pb2_grpc.OrdersServiceStub(channel)
        self.documents = documents_pb2_grpc.DocumentsServiceStub(channel)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
        self.transfers = transfers_service_pb2_grpc.TransfersServiceStub(channel)

    def start(self, key: str) -> None:
        """The contract's own method starts. Whoever repeats it under its request id starts nothing twice."""
        for _ in range(2):
            metadata = (("longshore-request-id", f"checkout-{key}"), ("longshore-label-tenant", "acme"))
            started, call = self.orders.Process.with_call(order(key), metadata=metadata)
            say(name=started.name, disposition=dict(call.initial_metadata())["longshore-disposition"])

    def watch(self, key: str) -> None:
        """Every event once, in order, over any number of connections."""
        name, after = self.orders.Process(order(key)).name, 0
        while True:
            try:
                request = pb.WatchRequest(name=name, after_sequence=after)
                for message in self.operations.Watch(request, wait_for_ready=True):
                    if message.HasField("event"):  # else a heartbeat
                        show(message.event)
                        after = message.event.sequence
                return  # the stream ends well after the last event, and only then
            except grpc.RpcError as error:
                if not broken(error):
                    raise
                say(resumed_after=after)

    def wait(self, key: str) -> None:
        """For five seconds, then to the end; `timeout` is the bound of the call, not of the operation."""
        name = self.orders.Process(order(key)).name
        end(self.operations.Wait(pb.WaitRequest(name=name, timeout=Duration(seconds=5)), timeout=60))
        end(self.operations.Wait(pb.WaitRequest(name=name), timeout=60))

    def signal(self, key: str) -> None:
        """A signal that is repeated under its id is the same signal."""
        name, approval = self.orders.Process(order(key, sku="restricted-tea")).name, AnyMessage()
        approval.Pack(orders_pb2.ApproveOrder(by="Kim"))
        for _ in range(2):
            request = pb.SignalRequest(name=name, signal="approve", payload=approval, signal_id="approval-1")
            answer = self.operations.Signal(request)
            say(number=answer.number, duplicate=answer.duplicate)
        end(self.operations.Wait(pb.WaitRequest(name=name)))

    def cancel(self, key: str) -> None:
        """Asking twice is asking once."""
        name = self.orders.Process(order(key)).name
        for _ in range(2):
            self.operations.Cancel(pb.CancelRequest(name=name, reason="changed my mind"))
        end(self.operations.Wait(pb.WaitRequest(name=name)))

    def list(self, key: str) -> None:
        """Page by page, the newest first."""
        request = pb.ListRequest(filter=f'labels.tenant="{key}"', page_size=2)
        while True:
            page = self.operations.List(request)
            say(names=[found.name for found in page.operations])
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def upload(self, key: str, file: str) -> None:
        """From where the server has it, over any number of connections."""
        data = Path(file).read_bytes()
        name = self.documents.Upload(documents_pb2.UploadRequest(key=key)).name
        upload = self.operations.Get(pb.GetRequest(name=name)).upload.name
        while True:
            try:
                request = bytes_pb.QueryUploadRequest(name=upload)
                offset = self.transfers.QueryUpload(request, wait_for_ready=True).committed_size
                say(resumed_at=offset)
                grant = self.transfers.Upload(pieces(upload, data, offset), wait_for_ready=True).upload
                say(committed=grant.committed_size, sha256=grant.digests.sha256.hex())
                break
            except grpc.RpcError as error:
                # Bytes of the broken call may have come after that question: OUT_OF_RANGE, so ask again.
                if not broken(error) and error.code() != grpc.StatusCode.OUT_OF_RANGE:
                    raise
        result = documents_pb2.FilesUploadResult()
        self.operations.Wait(pb.WaitRequest(name=name)).result.Unpack(result)
        say(download=result.download)

    def download(self, key: str) -> None:
        """From where the caller has it: of the same object."""
        data, request = bytearray(), bytes_pb.DownloadRequest(name=key)
        while True:
            try:
                for message in self.transfers.Download(request, wait_for_ready=True):
                    if message.HasField("header"):
                        request.if_sha256 = message.header.download.digests.sha256
                    if message.HasField("chunk"):
                        assert google_crc32c.value(message.chunk.data) == message.chunk.crc32c
                        data += message.chunk.data
                break
            except grpc.RpcError as error:
                if not broken(error):
                    raise
                request.offset = len(data)
                say(resumed_at=request.offset)
        assert hashlib.sha256(data).digest() == request.if_sha256
        say(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def failure(self, key: str) -> None:
        """What an operation failed for is a status, as a refused call has one."""
        name = self.orders.Process(order(key, amount=1_000_000)).name
        end(self.operations.Wait(pb.WaitRequest(name=name)))

    def refusals(self, key: str) -> None:
        """Calls that are refused, each with all that it is told."""
        name = self.orders.Process(order(key), metadata=(("longshore-request-id", key),)).name
        stored = self.documents.Upload(documents_pb2.UploadRequest(key=key)).name
        upload = self.operations.Get(pb.GetRequest(name=stored)).upload.name
        reused = (("longshore-request-id", key),)
        refused("invalid", lambda: self.orders.Process(order("")))
        refused("unknown", lambda: self.operations.Get(pb.GetRequest(name="operations/nobody")))
        refused("reused", lambda: self.orders.Process(order(f"{key}-2"), metadata=reused))
        refused("running", lambda: self.operations.Delete(pb.DeleteRequest(name=name)))
        refused("offset", lambda: self.transfers.Upload(pieces(upload, b"tea", 1)))
        refused("full", lambda: self.orders.Process(order(f"{key}-3")))

    def longrunning(self, key: str) -> None:
        """google.longrunning: the future of google-api-core."""
        future = self.future(key)
        result = future.result(timeout=60)
        say(step=future.metadata.step, status=result.status)

    def longrunning_error(self, key: str) -> None:
        """The error of an operation that failed."""
        error = self.future(key, amount=1_000_000).exception(timeout=60)
        say(code=error.grpc_status_code.value[0])

    def longrunning_cancelled(self, key: str) -> None:
        """A cancelled operation, and that it is known as such."""
        future = self.future(key)
        future.cancel()
        future.exception(timeout=60)
        say(cancelled=future.cancelled())

    def longrunning_deadline(self, key: str) -> None:
        """The time of the caller is up; the operation goes on, and is found again by its name."""
        future, late = self.future(key), False
        try:
            future.result(timeout=0.5)
        except TimeoutError:
            late = True
        say(deadline=late, done=future.done())

    def future(self, key: str, amount: int = 1200) -> Any:
        """Not `operation.from_grpc`, which is broken."""
        client: Any = operations_v1.OperationsClient(self.channel)  # type: ignore[no-untyped-call]
        started = self.orders.Process(order(key, amount=amount))
        result, progress = orders_pb2.ProcessOrderResult, orders_pb2.ProcessOrderProgress
        return operation.from_gapic(started, client, result, metadata_type=progress)  # type: ignore[no-untyped-call]


def order(key: str, sku: str = "tea", amount: int = 1200) -> orders_pb2.ProcessOrderRequest:
    return orders_pb2.ProcessOrderRequest(
        order_id=key, items=[orders_pb2.OrderItem(sku=sku, quantity=1)], amount=amount
    )


def broken(error: grpc.RpcError) -> bool:
    """Whether it was the connection: a refusal says why in its details, but for UNAVAILABLE it is final."""
    return error.code() == grpc.StatusCode.UNAVAILABLE or not status(error).details


def status(error: grpc.RpcError) -> status_pb2.Status:
    trailers: Any = error.trailing_metadata() or ()
    return status_pb2.Status.FromString(dict(trailers).get("grpc-status-details-bin", b""))


def refused(call: str, make: Any) -> None:
    try:
        make()
    except grpc.RpcError as error:
        say(call=call, refusal=MessageToDict(status(error)))


def pieces(upload: str, data: bytes, offset: int) -> Iterator[bytes_pb.UploadRequest]:
    yield bytes_pb.UploadRequest(header=bytes_pb.UploadHeader(upload=upload, total_size=len(data)))
    for at in range(offset, len(data), CHUNK):
        piece = data[at : at + CHUNK]
        chunk = bytes_pb.UploadChunk(offset=at, data=piece, crc32c=google_crc32c.value(piece))
        yield bytes_pb.UploadRequest(chunk=chunk)
    commit = bytes_pb.UploadCommit(total_size=len(data), sha256=hashlib.sha256(data).digest())
    yield bytes_pb.UploadRequest(commit=commit)


def show(event: OperationEvent) -> None:
    """An event, and what it holds in the types of the contract."""
    kind, progress, result = (
        event.WhichOneof("event"),
        orders_pb2.ProcessOrderProgress(),
        orders_pb2.ProcessOrderResult(),
    )
    told: dict[str, Any] = {"sequence": event.sequence, "event": kind}
    if kind == "progress" and event.progress.value.Unpack(progress):
        told["step"] = progress.step
    if kind == "completed" and event.completed.result.Unpack(result):
        told["status"] = result.status
    say(**told)


def end(snapshot: OperationSnapshot) -> None:
    """How an operation stands: with its result, with its error, or with neither."""
    told: dict[str, Any] = {"state": OperationSnapshot.State.Name(snapshot.state)}
    result = orders_pb2.ProcessOrderResult()
    if snapshot.HasField("result") and snapshot.result.Unpack(result):
        told["status"] = result.status
    if snapshot.HasField("error"):
        told["error"] = MessageToDict(snapshot.error)
    say(**told)


def say(**told: Any) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    address, story, *arguments = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        getattr(Client(channel), story)(*arguments)
