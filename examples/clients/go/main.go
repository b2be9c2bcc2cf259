// Orders and documents from Go, with grpc-go, gax and generated stubs alone.
//
//	client ADDRESS STORY KEY [FILE]
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // the types that details are of

	documents "client/gen/acme/documents/v1"
	orders "client/gen/acme/orders/v1"
	longshore "client/gen/longshore/v1"
)

var background = context.Background()

// A server that drains refuses at once, so whoever asks again takes a break.
const pause = 200 * time.Millisecond

// Client has the stubs; its methods are the stories.
type Client struct {
	conn       *grpc.ClientConn
	orders     orders.OrdersServiceClient
	documents  documents.DocumentsServiceClient
	operations longshore.OperationsServiceClient
	transfers  longshore.TransfersServiceClient
}

func main() {
	address, story, key, file := os.Args[1], os.Args[2], os.Args[3], append(os.Args, "")[4]
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A connection that died in silence is noticed by pings alone.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	check(err)
	defer conn.Close()
	client := &Client{conn, orders.NewOrdersServiceClient(conn), documents.NewDocumentsServiceClient(conn),
		longshore.NewOperationsServiceClient(conn), longshore.NewTransfersServiceClient(conn)}
	map[string]func(){
		"start":                 func() { client.start(key) },
		"watch":                 func() { client.watch(key) },
		"wait":                  func() { client.wait(key) },
		"signal":                func() { client.signal(key) },
		"cancel":                func() { client.cancel(key) },
		"list":                  func() { client.list(key) },
		"upload":                func() { client.upload(key, file) },
		"download":              func() { client.download(key) },
		"failure":               func() { client.failure(key) },
		"refusals":              func() { client.refusals(key) },
		"longrunning":           func() { client.longrunning(key) },
		"longrunning_error":     func() { client.longrunningError(key) },
		"longrunning_cancelled": func() { client.longrunningCancelled(key) },
		"longrunning_deadline":  func() { client.longrunningDeadline(key) },
	}[story]()
}

// broken says whether it was the connection: a refusal says why in its details, but for Unavailable it is final.
func broken(err error) bool {
	refusal, _ := status.FromError(err)
	switch refusal.Code() {
	case codes.Unavailable:
		return true
	case codes.Canceled, codes.Unknown, codes.Internal: // nothing here is cancelled by its own caller
		return len(refusal.Details()) == 0
	}
	return false
}

// show prints an event, with what it holds in the types of the contract.
func show(event *longshore.OperationEvent) {
	told := map[string]any{"sequence": event.Sequence}
	switch is := event.Event.(type) {
	case *longshore.OperationEvent_Progress_:
		told["event"], told["step"] = "progress", unpack[*orders.ProcessOrderProgress](is.Progress.Value).Step
	case *longshore.OperationEvent_Completed_:
		told["event"], told["status"] = "completed", unpack[*orders.ProcessOrderResult](is.Completed.Result).Status
	default: // the names of the others, as the protos have them
		reflected := event.ProtoReflect()
		told["event"] = reflected.WhichOneof(reflected.Descriptor().Oneofs().ByName("event")).Name()
	}
	say(told)
}

// end prints how an operation stands: with its result, with its error, or with neither.
func end(operation *longshore.OperationSnapshot, err error) {
	check(err)
	told := map[string]any{"state": operation.State.String()}
	if result := operation.GetResult(); result != nil {
		told["status"] = unpack[*orders.ProcessOrderResult](result).Status
	}
	if failure := operation.GetError(); failure != nil {
		told["error"] = asJSON(failure)
	}
	say(told)
}

func unpack[M proto.Message](packed *anypb.Any) M {
	message, err := packed.UnmarshalNew()
	check(err)
	return message.(M)
}

func asJSON(message proto.Message) json.RawMessage {
	text, err := protojson.Marshal(message)
	check(err)
	return text
}

func say(told map[string]any) {
	text, err := json.Marshal(told)
	check(err)
	fmt.Println(string(text))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
