package client;

import static acme.orders.v1.Orders.*;
import static longshore.v1.Operation.*;

import acme.documents.v1.DocumentsServiceGrpc;
import acme.orders.v1.OrdersServiceGrpc;
import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonParser;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.TypeRegistry;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.ErrorDetailsProto;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import longshore.v1.OperationsServiceGrpc;
import longshore.v1.TransfersServiceGrpc;

/**
 * Orders and documents from Java, with grpc-java, gax and generated stubs alone.
 *
 * <pre>java -cp target/classes:$(cat target/classpath) client.Client ADDRESS STORY KEY [FILE]</pre>
 */
class Client {
  final ManagedChannel channel;
  final OrdersServiceGrpc.OrdersServiceBlockingStub orders;
  final DocumentsServiceGrpc.DocumentsServiceBlockingStub documents;
  final OperationsServiceGrpc.OperationsServiceBlockingStub operations;
  final TransfersServiceGrpc.TransfersServiceBlockingV2Stub transfers;

  Client(ManagedChannel channel) {
    this.channel = channel;
    orders = OrdersServiceGrpc.newBlockingStub(channel);
    documents = DocumentsServiceGrpc.newBlockingStub(channel);
    operations = OperationsServiceGrpc.newBlockingStub(channel).withWaitForReady();
    transfers = TransfersServiceGrpc.newBlockingV2Stub(channel).withWaitForReady();
  }

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel = NettyChannelBuilder.forTarget(arguments[0]).usePlaintext()
        // A connection that died in silence is noticed by pings alone.
        .keepAliveTime(10, TimeUnit.SECONDS).keepAliveTimeout(5, TimeUnit.SECONDS).build();
    try {
      Client client = new Client(channel);
      String key = arguments[2];
      switch (arguments[1]) {
        case "start" -> new Operations(client).start(key);
        case "watch" -> new Operations(client).watch(key);
        case "wait" -> new Operations(client).waits(key);
        case "signal" -> new Operations(client).signal(key);
        case "cancel" -> new Operations(client).cancel(key);
        case "list" -> new Operations(client).list(key);
        case "failure" -> new Operations(client).failure(key);
        case "refusals" -> new Operations(client).refusals(key);
        case "upload" -> new Transfers(client).upload(key, arguments[3]);
        case "download" -> new Transfers(client).download(key);
        case "longrunning" -> new LongRunning(client).result(key);
        case "longrunning_error" -> new LongRunning(client).error(key);
        case "longrunning_cancelled" -> new LongRunning(client).cancelled(key);
        case "longrunning_deadline" -> new LongRunning(client).deadline(key);
        default -> throw new IllegalArgumentException(arguments[1]);
      }
    } finally {
      channel.shutdownNow();
    }
  }

  static ProcessOrderRequest order(String key, String sku, long amount) {
    OrderItem item = OrderItem.newBuilder().setSku(sku).setQuantity(1).build();
    return ProcessOrderRequest.newBuilder().setOrderId(key).setAmount(amount).addItems(item).build();
  }

  static ProcessOrderRequest order(String key) {
    return order(key, "tea", 1200);
  }

  /** Whether it was the connection: a refusal says why in its details, but for UNAVAILABLE it is final. */
  static boolean broken(Exception error) {
    return switch (code(error)) {
      case UNAVAILABLE -> true;
      // Nothing here is cancelled by its own caller.
      case CANCELLED, UNKNOWN, INTERNAL -> StatusProto.fromThrowable(error).getDetailsCount() == 0;
      default -> false;
    };
  }

  /** A server that drains refuses at once, so whoever asks again takes a break. */
  static void pause() throws InterruptedException {
    Thread.sleep(200);
  }

  static Status.Code code(Exception error) {
    return Status.fromThrowable(error).getCode();
  }

  /** An event, with what it holds in the types of the contract. */
  static void show(OperationEvent event) throws InvalidProtocolBufferException {
    Map<String, Object> told = told("sequence", event.getSequence(), "event", event.getEventCase().name().toLowerCase());
    if (event.hasProgress()) {
      told.put("step", event.getProgress().getValue().unpack(ProcessOrderProgress.class).getStep());
    }
    if (event.hasCompleted()) {
      told.put("status", event.getCompleted().getResult().unpack(ProcessOrderResult.class).getStatus());
    }
    say(told);
  }

  /** How an operation stands: with its result, with its error, or with neither. */
  static void end(OperationSnapshot operation) throws InvalidProtocolBufferException {
    Map<String, Object> told = told("state", operation.getState().name());
    if (operation.hasResult()) {
      told.put("status", operation.getResult().unpack(ProcessOrderResult.class).getStatus());
    }
    if (operation.hasError()) {
      told.put("error", json(operation.getError()));
    }
    say(told);
  }

  private static final TypeRegistry DETAILS =
      TypeRegistry.newBuilder().add(ErrorDetailsProto.getDescriptor().getMessageTypes()).build();

  static JsonElement json(MessageOrBuilder message) throws InvalidProtocolBufferException {
    return JsonParser.parseString(JsonFormat.printer().usingTypeRegistry(DETAILS).print(message));
  }

  static Map<String, Object> told(Object... pairs) {
    Map<String, Object> told = new LinkedHashMap<>();
    for (int at = 0; at < pairs.length; at += 2) {
      told.put((String) pairs[at], pairs[at + 1]);
    }
    return told;
  }

  static void say(Map<String, Object> told) {
    System.out.println(new Gson().toJson(told));
  }

  static void say(Object... pairs) {
    say(told(pairs));
  }
}
