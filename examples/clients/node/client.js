// Orders and documents from Node, with @grpc/grpc-js and @grpc/proto-loader alone: the protos are read as they are.
//
//     node client.js ADDRESS STORY KEY [FILE]

import {createHash} from 'node:crypto';
import {readFileSync} from 'node:fs';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import {crc32c} from './crc32c.js';

const [address, story, key, file] = process.argv.slice(2);

const files = ['acme/orders/v1/orders.proto', 'acme/documents/v1/documents.proto', 'google/longrunning/operations.proto',
  'google/rpc/error_details.proto', 'longshore/v1/operations_service.proto', 'longshore/v1/transfers_service.proto'];
// `json` shows an Any as what it holds, and takes it so: an object with its type in '@type'.
const {acme, google, longshore} = grpc.loadPackageDefinition(loader.loadSync(files,
  {includeDirs: [new URL('protos', import.meta.url).pathname], json: true, longs: Number, enums: String, oneofs: true}));
const TYPES = 'type.googleapis.com/';

const plain = grpc.credentials.createInsecure();
const orders = new acme.orders.v1.OrdersService(address, plain);
const documents = new acme.documents.v1.DocumentsService(address, plain);
const operations = new longshore.v1.OperationsService(address, plain);
const transfers = new longshore.v1.TransfersService(address, plain);
const longrunning = new google.longrunning.Operations(address, plain);

const order = (key, {sku = 'tea', amount = 1200} = {}) => ({orderId: key, amount, items: [{sku, quantity: 1}]});
const say = told => console.log(JSON.stringify(told));

// A unary call as a promise.
const call = (stub, method, request, metadata = new grpc.Metadata()) => new Promise((resolve, reject) =>
  stub[method](request, metadata, (error, answer) => error ? reject(error) : resolve(answer)));
const place = async (key, fields) => (await call(orders, 'process', order(key, fields))).name;
// A call that waits for the connection to come back, as long as that takes.
const patient = () => new grpc.Metadata({waitForReady: true});

// Why a call was refused. A connection that broke says nothing of the kind.
const status = error => {
  const [trailer] = error.metadata?.get('grpc-status-details-bin') ?? [];
  return trailer === undefined ? undefined : google.rpc.Status.deserialize(trailer);
};
// Whether it was the connection: a refusal is final, but for UNAVAILABLE.
const broken = error => error.code === grpc.status.UNAVAILABLE || status(error) === undefined;

const stories = {
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
    const payload = {'@type': `${TYPES}acme.orders.v1.ApproveOrder`, by: 'Kim'};
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

  // From where the server has it, over any number of connections.
  async upload() {
    const data = readFileSync(file);
    const {name} = await call(documents, 'upload', {key});
    const {upload} = await call(operations, 'get', {name});
    for (;;) {
      try {
        const {committedSize = 0} = await call(transfers, 'queryUpload', {name: upload.name}, patient());
        say({resumed_at: committedSize});
        const sent = await send(upload.name, data, committedSize);
        say({committed: sent.committedSize, sha256: sent.digests.sha256.toString('hex')});
        break;
      } catch (error) {
        // Bytes of the broken call may have come after that question: OUT_OF_RANGE, so ask again.
        if (!broken(error) && error.code !== grpc.status.OUT_OF_RANGE) throw error;
      }
    }
    say({download: (await call(operations, 'wait', {name})).result.download});
  },

  // From where the caller has it: of the same object.
  async download() {
    const digest = createHash('sha256');
    const request = {name: key, offset: 0};
    for (;;) {
      try {
        for await (const {header, chunk} of transfers.download(request, patient())) {
          if (header) request.ifSha256 = header.download.digests.sha256;
          if (!chunk) continue;
          if (crc32c(chunk.data) !== chunk.crc32c) throw new Error('a chunk is not what was sent');
          digest.update(chunk.data);
          request.offset += chunk.data.length;
        }
        break;
      } catch (error) {
        if (!broken(error)) throw error;
        say({resumed_at: request.offset});
      }
    }
    const sha256 = digest.digest();
    if (!sha256.equals(request.ifSha256)) throw new Error('the bytes are not those that were stored');
    say({size: request.offset, sha256: sha256.toString('hex')});
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

  // google.longrunning, by the generated stub: an operation is asked for until it is done.
  async longrunning() {
    const done = await finished(await place(key));
    say({step: done.metadata.step, status: done.response.status});
  },

  async longrunning_error() {
    const {error} = await finished(await place(key, {amount: 1_000_000}));
    say({code: error.code, reason: error.details[0].reason});
  },

  async longrunning_cancelled() {
    const name = await place(key);
    await call(longrunning, 'cancelOperation', {name});
    say({cancelled: (await finished(name)).error.code === grpc.status.CANCELLED});
  },

  // The time of the caller is up; the operation goes on, and is found again by its name.
  async longrunning_deadline() {
    const name = await place(key);
    const late = await finished(name, {deadline: Date.now() + 500}).then(() => false,
      error => error.code === grpc.status.DEADLINE_EXCEEDED);
    say({deadline: late, done: (await call(longrunning, 'getOperation', {name})).done ?? false});
  },
};

// WaitOperation answers at the end: nobody has to ask again and again.
const finished = (name, options = {}) => new Promise((resolve, reject) =>
  longrunning.waitOperation({name}, options, (error, answer) => error ? reject(error) : resolve(answer)));

const CHUNK = 64 << 10;

// Sends what there is from an offset on, and commits it.
const send = (upload, data, offset) => new Promise((resolve, reject) => {
  const stream = transfers.upload(patient(), (error, answer) => error ? reject(error) : resolve(answer.upload));
  const write = message => stream.write(message) || new Promise(drained => stream.once('drain', drained));
  (async () => {
    await write({header: {upload, totalSize: data.length}});
    for (let at = offset; at < data.length; at += CHUNK) {
      const piece = data.subarray(at, at + CHUNK);
      await write({chunk: {offset: at, data: piece, crc32c: crc32c(piece)}});
    }
    await write({commit: {totalSize: data.length, sha256: createHash('sha256').update(data).digest()}});
    stream.end();
  })();
});

// An event, with what it holds in the types of the contract.
const show = event => {
  const told = {sequence: event.sequence, event: event.event.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)};
  if (event.progress) told.step = event.progress.value.step;
  if (event.completed) told.status = event.completed.result.status;
  say(told);
};

// How an operation stands: with its result, with its error, or with neither.
const end = ({state, result, error}) =>
  say({state, ...(result && {status: result.status}), ...(error && {error: readable(error)})});

// A status as proto3 JSON writes it; only durations differ.
const readable = ({code, message, details}) => ({code, message, details: details.map(({retryDelay, ...detail}) =>
  retryDelay ? {...detail, retryDelay: `${(retryDelay.seconds ?? 0) + (retryDelay.nanos ?? 0) / 1e9}s`} : detail)});

await stories[story]();
for (const stub of [orders, documents, operations, transfers, longrunning]) stub.close();
