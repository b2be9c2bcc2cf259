package client;

import static client.Client.*;

import acme.orders.v1.Orders.ProcessOrderProgress;
import acme.orders.v1.Orders.ProcessOrderRequest;
import acme.orders.v1.Orders.ProcessOrderResult;
import acme.orders.v1.OrdersServiceGrpc;
import com.google.api.gax.grpc.GrpcCallContext;
import com.google.api.gax.grpc.GrpcCallSettings;
import com.google.api.gax.grpc.GrpcCallableFactory;
import com.google.api.gax.grpc.GrpcStatusCode;
import com.google.api.gax.grpc.GrpcTransportChannel;
import com.google.api.gax.grpc.ProtoOperationTransformers.MetadataTransformer;
import com.google.api.gax.grpc.ProtoOperationTransformers.ResponseTransformer;
import com.google.api.gax.longrunning.OperationFuture;
import com.google.api.gax.longrunning.OperationSnapshot;
import com.google.api.gax.longrunning.OperationTimedPollAlgorithm;
import com.google.api.gax.retrying.RetrySettings;
import com.google.api.gax.rpc.ApiException;
import com.google.api.gax.rpc.ClientContext;
import com.google.api.gax.rpc.OperationCallSettings;
import com.google.api.gax.rpc.OperationCallable;
import com.google.api.gax.rpc.StatusCode;
import com.google.api.gax.rpc.UnaryCallSettings;
import com.google.longrunning.stub.GrpcOperationsStub;
import java.time.Duration;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** google.longrunning: the futures of gax. */
class LongRunning {
  private final OperationCallable<ProcessOrderRequest, ProcessOrderResult, ProcessOrderProgress> process;

  LongRunning(Client client) throws Exception {
    ClientContext context = ClientContext.newBuilder()
        .setTransportChannel(GrpcTransportChannel.newBuilder().setManagedChannel(client.channel).build())
        .setDefaultCallContext(GrpcCallContext.createDefault().withChannel(client.channel)).build();
    RetrySettings often = RetrySettings.newBuilder().setInitialRetryDelayDuration(Duration.ofMillis(50))
        .setRetryDelayMultiplier(1.5).setMaxRetryDelayDuration(Duration.ofMillis(200))
        .setTotalTimeoutDuration(Duration.ofMinutes(1)).build();
    process = GrpcCallableFactory.createOperationCallable(
        GrpcCallSettings.create(OrdersServiceGrpc.getProcessMethod()),
        OperationCallSettings.<ProcessOrderRequest, ProcessOrderResult, ProcessOrderProgress>newBuilder()
            .setInitialCallSettings(
                UnaryCallSettings.<ProcessOrderRequest, OperationSnapshot>newUnaryCallSettingsBuilder().build())
            .setResponseTransformer(ResponseTransformer.create(ProcessOrderResult.class))
            .setMetadataTransformer(MetadataTransformer.create(ProcessOrderProgress.class))
            .setPollingAlgorithm(OperationTimedPollAlgorithm.create(often)).build(),
        context, GrpcOperationsStub.create(context));
  }

  /** Its result and its metadata, in their types. */
  void result(String key) throws Exception {
    OperationFuture<ProcessOrderResult, ProcessOrderProgress> future = process.futureCall(order(key));
    say("status", future.get().getStatus(), "step", future.getMetadata().get().getStep());
  }

  /** The error of an operation that failed. */
  void error(String key) throws Exception {
    StatusCode code = failed(process.futureCall(order(key, "tea", 1_000_000)));
    say("code", ((GrpcStatusCode) code).getTransportCode().value()); // gax drops the message and the details
  }

  /** A cancelled operation, and that it is known as such. */
  void cancelled(String key) throws Exception {
    OperationFuture<ProcessOrderResult, ProcessOrderProgress> future = process.futureCall(order(key));
    process.cancel(future.getName());
    say("cancelled", failed(future).getCode() == StatusCode.Code.CANCELLED);
  }

  /** The time of the caller is up; the operation goes on, and is found again by its name. */
  void deadline(String key) throws Exception {
    OperationFuture<ProcessOrderResult, ProcessOrderProgress> future = process.futureCall(order(key));
    boolean late = false;
    try {
      future.get(500, TimeUnit.MILLISECONDS);
    } catch (TimeoutException error) {
      late = true;
    }
    OperationSnapshot found = process.resumeFutureCall(future.getName()).getInitialFuture().get();
    say("deadline", late, "done", found.isDone());
  }

  private static StatusCode failed(OperationFuture<?, ?> future) throws Exception {
    try {
      future.get();
      throw new IllegalStateException("it has not failed");
    } catch (ExecutionException error) {
      return ((ApiException) error.getCause()).getStatusCode();
    }
  }
}
