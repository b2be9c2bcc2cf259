package main

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	documents "client/gen/acme/documents/v1"
	orders "client/gen/acme/orders/v1"
	longshore "client/gen/longshore/v1"
)

func order(key, sku string, amount int64) *orders.ProcessOrderRequest {
	return &orders.ProcessOrderRequest{OrderId: key, Amount: amount, Items: []*orders.OrderItem{{Sku: sku, Quantity: 1}}}
}

func (c *Client) place(key, sku string, amount int64) string {
	started, err := c.orders.Process(background, order(key, sku, amount))
	check(err)
	return started.Name
}

// The contract's own method starts. Whoever repeats it under its request id starts nothing twice.
func (c *Client) start(key string) {
	told := metadata.AppendToOutgoingContext(background,
		"longshore-request-id", "checkout-"+key, "longshore-label-tenant", "acme")
	for range 2 {
		var header metadata.MD
		started, err := c.orders.Process(told, order(key, "tea", 1200), grpc.Header(&header))
		check(err)
		say(map[string]any{"name": started.Name, "disposition": header.Get("longshore-disposition")[0]})
	}
}

// Every event once, in order, over any number of connections.
func (c *Client) watch(key string) {
	request := &longshore.WatchRequest{Name: c.place(key, "tea", 1200), AfterSequence: new(int64)}
	for {
		err := c.follow(request)
		if errors.Is(err, io.EOF) {
			return // the stream ends well after the last event, and only then
		} else if !broken(err) {
			check(err)
		}
		say(map[string]any{"resumed_after": *request.AfterSequence})
		time.Sleep(pause)
	}
}

func (c *Client) follow(request *longshore.WatchRequest) error {
	stream, err := c.operations.Watch(background, request, grpc.WaitForReady(true))
	for err == nil {
		var message *longshore.WatchResponse
		message, err = stream.Recv()
		if event := message.GetEvent(); event != nil { // else a heartbeat
			show(event)
			*request.AfterSequence = event.Sequence
		}
	}
	return err
}

// For five seconds, then to the end; Timeout is the bound of the call, not of the operation.
func (c *Client) wait(key string) {
	name := c.place(key, "tea", 1200)
	end(c.operations.Wait(background, &longshore.WaitRequest{Name: name, Timeout: durationpb.New(5 * time.Second)}))
	end(c.operations.Wait(background, &longshore.WaitRequest{Name: name}))
}

// A signal that is repeated under its id is the same signal.
func (c *Client) signal(key string) {
	name := c.place(key, "restricted-tea", 1200)
	approval, err := anypb.New(&orders.ApproveOrder{By: "Kim"})
	check(err)
	for range 2 {
		answer, err := c.operations.Signal(background,
			&longshore.SignalRequest{Name: name, Signal: "approve", Payload: approval, SignalId: "approval-1"})
		check(err)
		say(map[string]any{"number": answer.Number, "duplicate": answer.Duplicate})
	}
	end(c.operations.Wait(background, &longshore.WaitRequest{Name: name}))
}

// Asking twice is asking once.
func (c *Client) cancel(key string) {
	name := c.place(key, "tea", 1200)
	for range 2 {
		_, err := c.operations.Cancel(background, &longshore.CancelRequest{Name: name, Reason: "changed my mind"})
		check(err)
	}
	end(c.operations.Wait(background, &longshore.WaitRequest{Name: name}))
}

// Page by page, the newest first.
func (c *Client) list(key string) {
	request := &longshore.ListRequest{Filter: `labels.tenant="` + key + `"`, PageSize: 2}
	for more := true; more; more = request.PageToken != "" {
		page, err := c.operations.List(background, request)
		check(err)
		names := []string{}
		for _, found := range page.Operations {
			names = append(names, found.Name)
		}
		say(map[string]any{"names": names})
		request.PageToken = page.NextPageToken
	}
}

// What an operation failed for is a status, as a refused call has one.
func (c *Client) failure(key string) {
	name := c.place(key, "tea", 1_000_000)
	end(c.operations.Wait(background, &longshore.WaitRequest{Name: name}))
}

// Calls that are refused, each with all that it is told.
func (c *Client) refusals(key string) {
	once := metadata.AppendToOutgoingContext(background, "longshore-request-id", key)
	running, err := c.orders.Process(once, order(key, "tea", 1200))
	check(err)
	stored, err := c.documents.Upload(background, &documents.UploadRequest{Key: key})
	check(err)
	found, err := c.operations.Get(background, &longshore.GetRequest{Name: stored.Name})
	check(err)

	refused := func(call string, err error) {
		say(map[string]any{"call": call, "refusal": asJSON(status.Convert(err).Proto())})
	}
	_, err = c.orders.Process(background, order("", "tea", 1200))
	refused("invalid", err)
	_, err = c.operations.Get(background, &longshore.GetRequest{Name: "operations/nobody"})
	refused("unknown", err)
	_, err = c.orders.Process(once, order(key+"-2", "tea", 1200))
	refused("reused", err)
	_, err = c.operations.Delete(background, &longshore.DeleteRequest{Name: running.Name})
	refused("running", err)
	_, err = c.send(found.Upload.Name, []byte("tea"), 1)
	refused("offset", err)
	_, err = c.orders.Process(background, order(key+"-3", "tea", 1200))
	refused("full", err)
}
