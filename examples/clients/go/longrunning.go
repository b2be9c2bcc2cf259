package main

import (
	"context"
	"errors"
	"time"

	"cloud.google.com/go/longrunning"
	autogen "cloud.google.com/go/longrunning/autogen"
	"github.com/googleapis/gax-go/v2/apierror"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"

	orders "client/gen/acme/orders/v1"
)

const often = 50 * time.Millisecond

// future gives an order to the operation client of Google's own libraries.
func (c *Client) future(key string, amount int64) *longrunning.Operation {
	client, err := autogen.NewOperationsClient(background, option.WithGRPCConn(c.conn))
	check(err)
	started, err := c.orders.Process(background, order(key, "tea", amount))
	check(err)
	return longrunning.InternalNewOperation(client, started)
}

// Its result and its metadata, in their types.
func (c *Client) longrunning(key string) {
	future, result, progress := c.future(key, 1200), &orders.ProcessOrderResult{}, &orders.ProcessOrderProgress{}
	check(future.WaitWithInterval(background, result, often))
	check(future.Metadata(progress))
	say(map[string]any{"step": progress.Step, "status": result.Status})
}

// The error of an operation that failed.
func (c *Client) longrunningError(key string) {
	failure := failed(c.future(key, 1_000_000).WaitWithInterval(background, nil, often))
	say(map[string]any{"code": int(failure.GRPCStatus().Code()), "reason": failure.Reason()})
}

// A cancelled operation, and that it is known as such.
func (c *Client) longrunningCancelled(key string) {
	future := c.future(key, 1200)
	check(future.Cancel(background))
	failure := failed(future.WaitWithInterval(background, nil, often))
	say(map[string]any{"cancelled": future.Done() && failure.GRPCStatus().Code() == codes.Canceled})
}

// The time of the caller is up; the operation goes on, and is found again by its name.
func (c *Client) longrunningDeadline(key string) {
	future := c.future(key, 1200)
	soon, cancel := context.WithTimeout(background, 500*time.Millisecond)
	defer cancel()
	err := future.WaitWithInterval(soon, nil, often)
	late := errors.Is(err, context.DeadlineExceeded) || failed(err).GRPCStatus().Code() == codes.DeadlineExceeded
	check(future.Poll(background, nil))
	say(map[string]any{"deadline": late, "done": future.Done()})
}

func failed(err error) *apierror.APIError {
	var failure *apierror.APIError
	if !errors.As(err, &failure) {
		check(err)
	}
	return failure
}
