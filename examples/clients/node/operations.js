// Start, watch, wait, signal, cancel and list.

import grpc from '@grpc/grpc-js';
import {broken, call, documents, end, key, operations, order, orders, patient, pause, place, readable, say, show,
  status} from './client.js';
import {send} from './transfers.js';

export default {
  // The contract's own method starts. Whoever repeats it under its request id starts nothing twice.
  async start() {
    for (const _ of [1, 2]) {
      const metadata = grpc.Metadata.fromHttp2Headers(
        {'longshore-request-id': `checkout-${key}`, 'longshore-label-tenant': 'acme'});
      let disposition;
      const started = await new Promise((resolve, reject) => {
        const made = orders.process(order(key), metadata, (error, answer) => error ? reject(error) : resolve(answer));
        made.on('metadata', headers => { [disposition] = headers.get('longshore-disposition'); });
      });
      say({name: started.name, disposition});
    }
  },

  // Every event once, in order, over any number of connections.
  async watch() {
    const request = {name: await place(key), afterSequence: 0};
    for (;;) {
      try {
        for await (const {event} of operations.watch(request, patient())) {
          if (!event) continue; // a heartbeat
          show(event);
          request.afterSequence = event.sequence;
        }
        return; // the stream ends well after the last event, and only then
      } catch (error) {
        if (!broken(error)) throw error;
        say({resumed_after: request.afterSequence});
        await pause();
      }
    }
  },

  // For five seconds, then to the end; `timeout` is the bound of the call, not of the operation.
  async wait() {
    const name = await place(key);
    end(await call(operations, 'wait', {name, timeout: {seconds: 5}}));
    end(await call(operations, 'wait', {name}));
  },

  // A signal that is repeated under its id is the same signal.
  async signal() {
    const name = await place(key, {sku: 'restricted-tea'});
    const payload = {'@type': 'type.googleapis.com/acme.orders.v1.ApproveOrder', by: 'Kim'};
    for (const _ of [1, 2]) {
      const answer = await call(operations, 'signal', {name, signal: 'approve', payload, signalId: 'approval-1'});
      say({number: answer.number, duplicate: answer.duplicate ?? false});
    }
    end(await call(operations, 'wait', {name}));
  },

  // Asking twice is asking once.
  async cancel() {
    const name = await place(key);
    for (const _ of [1, 2]) await call(operations, 'cancel', {name, reason: 'changed my mind'});
    end(await call(operations, 'wait', {name}));
  },

  // Page by page, the newest first.
  async list() {
    let pageToken;
    do {
      const page = await call(operations, 'list', {filter: `labels.tenant="${key}"`, pageSize: 2, pageToken});
      say({names: page.operations.map(({name}) => name)});
      pageToken = page.nextPageToken;
    } while (pageToken);
  },

  // What an operation failed for is a status, as a refused call has one.
  async failure() {
    end(await call(operations, 'wait', {name: await place(key, {amount: 1_000_000})}));
  },

  // Calls that are refused, each with all that it is told.
  async refusals() {
    const once = grpc.Metadata.fromHttp2Headers({'longshore-request-id': key});
    const {name} = await call(orders, 'process', order(key), once);
    const {upload} = await call(operations, 'get', {name: (await call(documents, 'upload', {key})).name});
    const calls = {
      invalid: () => call(orders, 'process', order('')),
      unknown: () => call(operations, 'get', {name: 'operations/nobody'}),
      reused: () => call(orders, 'process', order(`${key}-2`), once),
      running: () => call(operations, 'delete', {name}),
      offset: () => send(upload.name, Buffer.from('tea'), 1),
      full: () => call(orders, 'process', order(`${key}-3`)),
    };
    for (const [call, make] of Object.entries(calls)) {
      await make().catch(error => say({call, refusal: readable(status(error))}));
    }
  },
};
