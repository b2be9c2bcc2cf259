package client;

import static client.Client.*;
import static longshore.v1.OperationsServiceOuterClass.*;

import acme.documents.v1.Documents.UploadRequest;
import acme.orders.v1.Orders.ApproveOrder;
import acme.orders.v1.OrdersServiceGrpc.OrdersServiceBlockingStub;
import com.google.longrunning.Operation;
import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.util.Iterator;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicReference;
import longshore.v1.Operation.OperationSnapshot;
import longshore.v1.OperationsServiceGrpc.OperationsServiceBlockingStub;

/** Start, follow, steer. */
record Operations(Client client, OrdersServiceBlockingStub orders, OperationsServiceBlockingStub operations) {
  Operations(Client client) {
    this(client, client.orders, client.operations);
  }

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  /** The contract's own method starts. Whoever repeats it under its request id starts nothing twice. */
  void start(String key) {
    Metadata sent = new Metadata();
    sent.put(key("longshore-request-id"), "checkout-" + key);
    sent.put(key("longshore-label-tenant"), "acme");
    AtomicReference<Metadata> headers = new AtomicReference<>();
    OrdersServiceBlockingStub telling = orders.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(sent),
        MetadataUtils.newCaptureMetadataInterceptor(headers, new AtomicReference<>()));
    for (int time = 0; time < 2; time++) {
      Operation started = telling.process(order(key));
      say("name", started.getName(), "disposition", headers.get().get(key("longshore-disposition")));
    }
  }

  /** Every event once, in order, over any number of connections. */
  void watch(String key) throws Exception {
    WatchRequest.Builder request = WatchRequest.newBuilder().setName(orders.process(order(key)).getName());
    request.setAfterSequence(0);
    while (true) {
      try {
        Iterator<WatchResponse> messages = operations.watch(request.build());
        while (messages.hasNext()) {
          WatchResponse message = messages.next();
          if (message.hasEvent()) { // else a heartbeat
            show(message.getEvent());
            request.setAfterSequence(message.getEvent().getSequence());
          }
        }
        return; // the stream ends well after the last event, and only then
      } catch (StatusRuntimeException error) {
        if (!broken(error)) {
          throw error;
        }
        say("resumed_after", request.getAfterSequence());
        pause();
      }
    }
  }

  /** For five seconds, then to the end; the timeout is the bound of the call, not of the operation. */
  void waits(String key) throws Exception {
    String name = orders.process(order(key)).getName();
    Duration soon = Duration.newBuilder().setSeconds(5).build();
    end(operations.wait(WaitRequest.newBuilder().setName(name).setTimeout(soon).build()));
    end(ended(name));
  }

  /** A signal that is repeated under its id is the same signal. */
  void signal(String key) throws Exception {
    String name = orders.process(order(key, "restricted-tea", 1200)).getName();
    Any approval = Any.pack(ApproveOrder.newBuilder().setBy("Kim").build());
    for (int time = 0; time < 2; time++) {
      SignalResponse answer = operations.signal(SignalRequest.newBuilder().setName(name).setSignal("approve")
          .setPayload(approval).setSignalId("approval-1").build());
      say("number", answer.getNumber(), "duplicate", answer.getDuplicate());
    }
    end(ended(name));
  }

  /** Asking twice is asking once. */
  void cancel(String key) throws Exception {
    String name = orders.process(order(key)).getName();
    for (int time = 0; time < 2; time++) {
      operations.cancel(CancelRequest.newBuilder().setName(name).setReason("changed my mind").build());
    }
    end(ended(name));
  }

  /** Page by page, the newest first. */
  void list(String key) {
    ListRequest.Builder request = ListRequest.newBuilder().setFilter("labels.tenant=\"" + key + "\"").setPageSize(2);
    do {
      ListResponse page = operations.list(request.build());
      say("names", page.getOperationsList().stream().map(OperationSnapshot::getName).toList());
      request.setPageToken(page.getNextPageToken());
    } while (!request.getPageToken().isEmpty());
  }

  /** What an operation failed for is a status, as a refused call has one. */
  void failure(String key) throws Exception {
    end(ended(orders.process(order(key, "tea", 1_000_000)).getName()));
  }

  /** Calls that are refused, each with all that it is told. */
  void refusals(String key) throws Exception {
    Metadata sent = new Metadata();
    sent.put(key("longshore-request-id"), key);
    OrdersServiceBlockingStub once = orders.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(sent));
    String running = once.process(order(key)).getName();
    String stored = client.documents.upload(UploadRequest.newBuilder().setKey(key).build()).getName();
    String upload = operations.get(GetRequest.newBuilder().setName(stored).build()).getUpload().getName();
    refused("invalid", () -> orders.process(order("")));
    refused("unknown", () -> operations.get(GetRequest.newBuilder().setName("operations/nobody").build()));
    refused("reused", () -> once.process(order(key + "-2")));
    refused("running", () -> operations.delete(DeleteRequest.newBuilder().setName(running).build()));
    refused("offset", () -> new Transfers(client).send(upload, "tea".getBytes(), 1));
    refused("full", () -> orders.process(order(key + "-3")));
  }

  private OperationSnapshot ended(String name) {
    return operations.wait(WaitRequest.newBuilder().setName(name).build());
  }

  private static void refused(String call, Callable<?> make) throws Exception {
    try {
      make.call();
    } catch (Exception error) {
      say("call", call, "refusal", json(StatusProto.fromThrowable(error)));
    }
  }
}
