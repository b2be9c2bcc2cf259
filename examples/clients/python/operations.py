"""Start, watch, wait, signal, cancel and list. Every public method is a story; `key` names what it is about."""

from __future__ import annotations

import grpc
from acme.documents.v1 import documents_pb2
from acme.orders.v1 import orders_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from stubs import Stubs, broken, end, order, pause, refused, say, show
from transfers import pieces

from longshore.v1 import operations_service_pb2 as pb


class Operations(Stubs):
    """The contract's own methods, and what all operations have."""

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
                pause()

    def wait(self, key: str) -> None:
        """For five seconds, then to the end; `timeout` is the bound of the call, not of the operation."""
        name = self.orders.Process(order(key)).name
        end(self.operations.Wait(pb.WaitRequest(name=name, timeout=Duration(seconds=5)), timeout=60))
        end(self.operations.Wait(pb.WaitRequest(name=name), timeout=60))

    def signal(self, key: str) -> None:
        """A signal that is repeated under its id is the same signal."""
        name, approval = self.orders.Process(order(key, sku="restricted-tea")).name, Any()
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
