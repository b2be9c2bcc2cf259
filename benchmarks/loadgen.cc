// The C-core load generator: one thread, one completion queue, requests and answers as bytes.
//
//   loadgen TARGET calls  kind=echo|start|run|startwatch request=FILE inflight=N seconds=S [count=N]
//   loadgen TARGET fanout method=M request=FILE trigger=M trigger_request=FILE inflight=N
//   loadgen TARGET hold   method=M request=FILE inflight=N
//   loadgen TARGET fetch  method=M request=FILE inflight=N
//
// Each takes authorization=VALUE, too, which every call then sends as metadata.
//
// `calls` keeps N calls in flight for S seconds (or until COUNT were made) and checks every answer. `fanout` opens N
// streams, waits for the first message of each, triggers, and counts what then comes until the last stream has ended.
// `hold` opens N streams, says so and keeps them until its input closes. `fetch` opens N streams and counts what comes
// until the last one has ended. The result is one JSON object on stdout.
//
// It reads the few protobuf fields that it looks at by itself, so that nothing but gRPC is needed to build it.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/async_stream.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using grpc::ByteBuffer;
using grpc::internal::RpcMethod;

constexpr char kEcho[] = "/bench.Floor/Echo";
constexpr char kStart[] = "/longshore.v1.OperationsService/Start";
constexpr char kRun[] = "/longshore.v1.OperationsService/Run";
constexpr char kWatch[] = "/longshore.v1.OperationsService/Watch";
constexpr uint64_t kCompletedState = 4;   // OperationSnapshot.State
constexpr uint32_t kCompletedEvent = 12;  // OperationEvent.completed

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "loadgen: %s\n", why.c_str());
  std::exit(1);
}

bool varint(std::string_view& in, uint64_t* out) {
  *out = 0;
  for (int shift = 0; shift < 64 && !in.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(in.front());
    in.remove_prefix(1);
    *out |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// The first field `wanted` of a serialized message: its bytes, or its number.
bool field(std::string_view message, uint32_t wanted, std::string_view* bytes, uint64_t* number = nullptr) {
  while (!message.empty()) {
    uint64_t key = 0, value = 0;
    if (!varint(message, &key)) return false;
    std::string_view found;
    const uint64_t wire = key & 7;
    if (wire == 0 || wire == 2) {
      if (!varint(message, &value)) return false;
      if (wire == 2) {
        if (value > message.size()) return false;
        found = message.substr(0, value);
        message.remove_prefix(value);
      }
    } else if (wire == 1 || wire == 5) {
      const size_t width = wire == 1 ? 8 : 4;
      if (width > message.size()) return false;
      message.remove_prefix(width);
    } else {
      return false;
    }
    if ((key >> 3) == wanted) {
      if (bytes != nullptr) *bytes = found;
      if (number != nullptr) *number = value;
      return true;
    }
  }
  return false;
}

void put_varint(std::string* out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>((value & 0x7f) | 0x80));
  out->push_back(static_cast<char>(value));
}

void put_text(std::string* out, uint32_t number, std::string_view text) {
  put_varint(out, (number << 3) | 2);
  put_varint(out, text.size());
  out->append(text);
}

std::string bytes_of(const ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string all;
  if (!buffer.Dump(&slices).ok()) return all;
  for (const auto& slice : slices) all.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return all;
}

ByteBuffer buffer_of(const std::string& bytes) {
  grpc::Slice slice(bytes);
  return ByteBuffer(&slice, 1);
}

std::string file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) die("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

double seconds_since(Clock::time_point began) { return std::chrono::duration<double>(Clock::now() - began).count(); }

std::shared_ptr<grpc::Channel> connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetInt("grpc.use_local_subchannel_pool", 1);
  arguments.SetInt("grpc.enable_retries", 0);
  auto channel = grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20))) {
    die("cannot connect to " + target);
  }
  return channel;
}

using Options = std::map<std::string, std::string>;

// One RPC. Its address is the tag of all its events, of which one at a time is outstanding.
struct Call {
  enum class Phase { kUnary, kOpening, kReading, kFinishing };
  Phase phase = Phase::kUnary;
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> unary;
  std::unique_ptr<grpc::ClientAsyncReader<ByteBuffer>> stream;
  ByteBuffer message;
  std::string last;  // of a stream: its latest message
  int64_t messages = 0;
  grpc::Status status;
  Clock::time_point began;  // of the operation, which may take two calls
};

class Core {
 public:
  Core(const std::string& target, const Options& options) : channel_(connect(target)), stub_(channel_) {
    const auto found = options.find("authorization");
    if (found != options.end()) authorization_ = found->second;
  }

  void unary(Call* call, const char* method, const ByteBuffer& request) {
    renew(call, Call::Phase::kUnary);
    call->unary = stub_.PrepareUnaryCall(call->context.get(), method, request, &queue_);
    call->unary->StartCall();
    call->unary->Finish(&call->message, &call->status, call);
  }

  // As generated stubs do it: headers, request and half-close leave in one batch.
  void stream(Call* call, const char* method, const ByteBuffer& request) {
    renew(call, Call::Phase::kOpening);
    call->messages = 0;
    call->stream.reset(grpc::internal::ClientAsyncReaderFactory<ByteBuffer>::Create(
        channel_.get(), &queue_, RpcMethod(method, RpcMethod::SERVER_STREAMING, channel_), call->context.get(), request,
        true, call));
  }

  // The next call that is through: true with its status in place; or, of a stream, a message has come: false.
  bool next(Call** which) {
    while (true) {
      void* tag = nullptr;
      bool ok = false;
      if (!queue_.Next(&tag, &ok)) die("the queue has ended");
      auto* call = static_cast<Call*>(tag);
      *which = call;
      switch (call->phase) {
        case Call::Phase::kUnary:
        case Call::Phase::kFinishing:
          return true;
        case Call::Phase::kOpening:
        case Call::Phase::kReading:
          if (!ok) {
            call->phase = Call::Phase::kFinishing;
            call->stream->Finish(&call->status, call);
            continue;
          }
          if (call->phase == Call::Phase::kReading) {
            ++call->messages;
            call->last = bytes_of(call->message);
            call->stream->Read(&call->message, call);
            return false;
          }
          call->phase = Call::Phase::kReading;
          call->stream->Read(&call->message, call);
          continue;
      }
    }
  }

 private:
  void renew(Call* call, Call::Phase phase) {
    call->phase = phase;
    call->unary.reset();
    call->stream.reset();
    call->context = std::make_unique<grpc::ClientContext>();
    if (!authorization_.empty()) call->context->AddMetadata("authorization", authorization_);
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::string authorization_;
  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
};

const std::string& option(const Options& options, const std::string& name) {
  const auto found = options.find(name);
  if (found == options.end()) die("missing " + name + "=");
  return found->second;
}

bool started(const Call& call, bool ended, std::string* watch) {
  const std::string answer = bytes_of(call.message);
  std::string_view operation, name, uid;
  uint64_t state = 0;
  if (!field(answer, 1, &operation) || !field(operation, 1, &name) || !field(operation, 2, &uid)) return false;
  if (watch != nullptr) {
    put_text(watch, 1, name);
    put_varint(watch, 2 << 3);  // after_sequence, present and 0: from the first event on
    put_varint(watch, 0);
    put_text(watch, 3, uid);
  }
  return !ended || (field(operation, 4, nullptr, &state) && state == kCompletedState);
}

bool ran_to_completion(const Call& call) {
  std::string_view event, completed;
  return field(call.last, 2, &event) && field(event, kCompletedEvent, &completed);
}

int calls(const std::string& target, const Options& options) {
  const std::string kind = option(options, "kind");
  const ByteBuffer request = buffer_of(file(option(options, "request")));
  const int inflight = std::stoi(option(options, "inflight"));
  const double seconds = std::stod(option(options, "seconds"));
  const int64_t limit = options.count("count") ? std::stoll(options.at("count")) : INT64_MAX;
  const bool waits = options.count("ended") == 0 || options.at("ended") != "no";
  Core core(target, options);
  auto begin = [&](Call* call) {
    call->began = Clock::now();
    if (kind == "echo") {
      core.unary(call, kEcho, request);
    } else if (kind == "run") {
      core.stream(call, kRun, request);
    } else {
      core.unary(call, kStart, request);
    }
  };
  std::vector<Call> all(static_cast<size_t>(inflight));
  std::vector<double> latencies;
  int64_t begun = 0, failed = 0, messages = 0;
  std::string why;
  const auto epoch = Clock::now();
  int open = 0;
  for (auto& call : all) {
    if (begun == limit) break;
    ++begun, ++open;
    begin(&call);
  }
  while (open > 0) {
    Call* call = nullptr;
    if (!core.next(&call)) continue;
    bool good = call->status.ok();
    if (good && kind == "startwatch" && call->phase == Call::Phase::kUnary) {
      std::string watch;
      if (started(*call, false, &watch)) {
        core.stream(call, kWatch, buffer_of(watch));
        continue;
      }
      good = false;
    } else if (good && kind == "start") {
      good = started(*call, waits, nullptr);
    } else if (good && kind != "echo") {
      good = ran_to_completion(*call);
      messages += call->messages;
    }
    if (good) {
      latencies.push_back(seconds_since(call->began));
    } else {
      ++failed;
      why = call->status.ok() ? "an answer is not of a completed operation" : call->status.error_message();
    }
    if (seconds_since(epoch) < seconds && begun < limit) {
      ++begun;
      begin(call);
    } else {
      --open;
    }
  }
  const double elapsed = seconds_since(epoch);
  std::sort(latencies.begin(), latencies.end());
  const size_t n = latencies.size();
  if (failed > 0) std::fprintf(stderr, "loadgen: %lld failed: %s\n", static_cast<long long>(failed), why.c_str());
  std::printf("{\"ops\": %zu, \"seconds\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"failed\": %lld, \"messages\": %lld}\n", n,
              elapsed, n ? latencies[n / 2] * 1e3 : 0.0, n ? latencies[n * 99 / 100] * 1e3 : 0.0,
              static_cast<long long>(failed), static_cast<long long>(messages));
  return 0;
}

// Counts what comes until so many calls have ended.
int drain(Core* core, int open, Clock::time_point epoch) {
  int64_t messages = 0, bytes = 0, failed = 0;
  double last = 0;
  while (open > 0) {
    Call* call = nullptr;
    if (core->next(&call)) {
      --open;
      failed += !call->status.ok();
    } else {
      ++messages;
      bytes += static_cast<int64_t>(call->last.size());
      last = seconds_since(epoch);
    }
  }
  std::printf("{\"messages\": %lld, \"bytes\": %lld, \"seconds\": %.6f, \"failed\": %lld}\n", static_cast<long long>(messages),
              static_cast<long long>(bytes), last, static_cast<long long>(failed));
  return 0;
}

int fanout(const std::string& target, const Options& options, bool hold) {
  const ByteBuffer request = buffer_of(file(option(options, "request")));
  const int inflight = std::stoi(option(options, "inflight"));
  Core core(target, options);
  std::vector<Call> all(static_cast<size_t>(inflight));
  // Opened a hundred at a time, so that the burst itself is not what is measured.
  int opened = 0, ready = 0;
  while (ready < inflight) {
    for (; opened < inflight && opened < ready + 100; ++opened) core.stream(&all[opened], option(options, "method").c_str(), request);
    Call* call = nullptr;
    if (core.next(&call)) die("a stream ended too early: " + call->status.error_message());
    if (call->messages == 1) ++ready;
  }
  if (hold) {
    std::printf("{\"ready\": %d}\n", ready);
    std::fflush(stdout);
    char byte = 0;
    while (read(STDIN_FILENO, &byte, 1) > 0) {}
    _exit(0);
  }
  Call trigger;
  const auto epoch = Clock::now();
  core.unary(&trigger, option(options, "trigger").c_str(), buffer_of(file(option(options, "trigger_request"))));
  return drain(&core, inflight + 1, epoch);
}

int fetch(const std::string& target, const Options& options) {
  const ByteBuffer request = buffer_of(file(option(options, "request")));
  const int inflight = std::stoi(option(options, "inflight"));
  Core core(target, options);
  std::vector<Call> all(static_cast<size_t>(inflight));
  const auto epoch = Clock::now();
  for (Call& call : all) core.stream(&call, option(options, "method").c_str(), request);
  return drain(&core, inflight, epoch);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) die("usage: loadgen TARGET calls|fanout|hold|fetch NAME=VALUE ...");
  Options options;
  for (int i = 3; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto equals = argument.find('=');
    if (equals == std::string::npos) die("not NAME=VALUE: " + argument);
    options[argument.substr(0, equals)] = argument.substr(equals + 1);
  }
  const std::string mode = argv[2];
  if (mode == "calls") return calls(argv[1], options);
  if (mode == "fanout" || mode == "hold") return fanout(argv[1], options, mode == "hold");
  if (mode == "fetch") return fetch(argv[1], options);
  die("unknown mode " + mode);
}
