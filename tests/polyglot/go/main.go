// Sends and fetches bytes by google.bytestream, over connections that break, with nothing but generated code.
//
// Its arguments are the server's address, a file whose bytes it sends, and the key of an object that it fetches. It
// prints what has come of it as JSON.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	streampb "client/gen/google/bytestream"
	pb "client/gen/longshore/v1"
)

const chunk = 64 << 10

var background = context.Background()

// Outcome is what has come of one transfer.
type Outcome struct {
	// Where it was gone on from after the connection had broken.
	Resumed int64  `json:"resumed"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	// Why a wrong offset was refused, and what the server said instead.
	Refused   string `json:"refused"`
	Committed string `json:"committed"`
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

// link is one connection, which can be cut.
type link struct {
	*grpc.ClientConn
	sockets []net.Conn
}

func dial(address string) *link {
	made := &link{}
	dialer := func(ctx context.Context, target string) (net.Conn, error) {
		socket, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
		if err == nil {
			made.sockets = append(made.sockets, socket)
		}
		return socket, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer))
	check(err)
	made.ClientConn = conn
	return made
}

// cut breaks the connection as a network does, without a word to the server's gRPC.
func (l *link) cut() {
	for _, socket := range l.sockets {
		check(socket.(*net.TCPConn).SetLinger(0))
		check(socket.Close())
	}
	check(l.Close())
}

func start(conn *link, kind, key string) *pb.OperationSnapshot {
	// The key is the first field of the contract's request, and all that is needed of that contract here.
	request := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
	input := &anypb.Any{TypeUrl: "type.googleapis.com/bytes.v1.BytesRequest", Value: request}
	answer, err := pb.NewOperationsServiceClient(conn).Start(background,
		&pb.StartRequest{Type: "bytes.v1.BytesService/" + kind, Input: input})
	check(err)
	return answer.Operation
}

// refusal is the reason in a refusal, and the committed size that comes with it.
func refusal(err error) (string, string) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason, info.Metadata["committed_size"]
		}
	}
	return fmt.Sprint(err), ""
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

type write struct {
	stream grpc.ClientStreamingClient[streampb.WriteRequest, streampb.WriteResponse]
	name   string
}

func newWrite(conn *link, name string) *write {
	stream, err := streampb.NewByteStreamClient(conn).Write(background)
	check(err)
	return &write{stream, name}
}

func (w *write) send(offset int64, data []byte, last bool) error {
	return w.stream.Send(&streampb.WriteRequest{ResourceName: w.name, WriteOffset: offset, Data: data, FinishWrite: last})
}

func (w *write) close() (int64, error) {
	answer, err := w.stream.CloseAndRecv()
	return answer.GetCommittedSize(), err
}

func committed(conn *link, name string) int64 {
	found, err := streampb.NewByteStreamClient(conn).QueryWriteStatus(background,
		&streampb.QueryWriteStatusRequest{ResourceName: name})
	check(err)
	return found.CommittedSize
}

// sendAll sends data from an offset up to an end, and finishes it if there is no more.
func sendAll(to *write, data []byte, offset, end int64) error {
	for at := offset; at < end; at += chunk {
		stop := min(at+chunk, end)
		if err := to.send(at, data[at:stop], stop == int64(len(data))); err != nil {
			return err
		}
	}
	return nil
}

// sending sends a third that is acknowledged, a third over a connection that breaks, and what is missing over another.
func sending(address, key string, data []byte) Outcome {
	first := dial(address)
	name := start(first, "Upload", key).Upload.Name
	third := int64(len(data)) / 3
	call := newWrite(first, name)
	check(sendAll(call, data, 0, third))
	acknowledged, err := call.close()
	check(err)
	if acknowledged != third {
		log.Panicf("%d of %d bytes are acknowledged", acknowledged, third)
	}
	broken := newWrite(first, name)
	check(sendAll(broken, data, third, 2*third))
	first.cut()
	if _, err = broken.close(); err == nil {
		log.Panic("nothing has broken")
	}

	second := dial(address)
	defer second.Close()
	outcome := Outcome{}
	wrong := newWrite(second, name)
	check(wrong.send(int64(len(data))-1, nil, false))
	_, err = wrong.close()
	outcome.Refused, outcome.Committed = refusal(err)
	// By now nobody else has it, so that this is all that has come.
	outcome.Resumed = committed(second, name)
	last := newWrite(second, name)
	check(sendAll(last, data, outcome.Resumed, int64(len(data))))
	outcome.Size, err = last.close()
	check(err)
	outcome.SHA256 = digest(data)
	return outcome
}

// fetching fetches a part over a connection that breaks, and the rest over another.
func fetching(address, key string) Outcome {
	first := dial(address)
	name := start(first, "Export", key).Downloads[0].Name
	data := read(first, name, 0, 1)
	first.cut()
	second := dial(address)
	defer second.Close()
	outcome := Outcome{Resumed: int64(len(data))}
	data = append(data, read(second, name, outcome.Resumed, 0)...)
	outcome.Size, outcome.SHA256 = int64(len(data)), digest(data)
	return outcome
}

// read ends early once it has `enough`.
func read(conn *link, name string, offset int64, enough int) []byte {
	stream, err := streampb.NewByteStreamClient(conn).Read(background,
		&streampb.ReadRequest{ResourceName: name, ReadOffset: offset})
	check(err)
	var got bytes.Buffer
	for enough == 0 || got.Len() < enough {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		check(err)
		got.Write(message.Data)
	}
	return got.Bytes()
}

func main() {
	address, key := os.Args[1], os.Args[3]
	data, err := os.ReadFile(os.Args[2])
	check(err)
	check(json.NewEncoder(os.Stdout).Encode(map[string]Outcome{
		"Write": sending(address, "by/write", data),
		"Read":  fetching(address, key),
	}))
}
