// What the stories need: the stubs, why a call was refused, and how to print what came of it.

import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

export const [address, story, key, file] = process.argv.slice(2);

const files = ['acme/orders/v1/orders.proto', 'acme/documents/v1/documents.proto', 'google/longrunning/operations.proto',
  'google/rpc/error_details.proto', 'longshore/v1/operations_service.proto', 'longshore/v1/transfers_service.proto'];
// `json` shows an Any as what it holds, and takes it so: an object with its type in '@type'.
const {acme, google, longshore} = grpc.loadPackageDefinition(loader.loadSync(files,
  {includeDirs: [new URL('protos', import.meta.url).pathname], json: true, longs: Number, enums: String, oneofs: true}));

const plain = grpc.credentials.createInsecure();
// A connection that died in silence is noticed by pings alone.
const pings = {'grpc.keepalive_time_ms': 10_000, 'grpc.keepalive_timeout_ms': 5_000};
export const orders = new acme.orders.v1.OrdersService(address, plain, pings);
export const documents = new acme.documents.v1.DocumentsService(address, plain, pings);
export const operations = new longshore.v1.OperationsService(address, plain, pings);
export const transfers = new longshore.v1.TransfersService(address, plain, pings);
export const longrunning = new google.longrunning.Operations(address, plain, pings);

export const order = (key, {sku = 'tea', amount = 1200} = {}) => ({orderId: key, amount, items: [{sku, quantity: 1}]});
export const say = told => console.log(JSON.stringify(told));

// A unary call as a promise.
export const call = (stub, method, request, metadata = new grpc.Metadata()) => new Promise((resolve, reject) =>
  stub[method](request, metadata, (error, answer) => error ? reject(error) : resolve(answer)));
export const place = async (key, fields) => (await call(orders, 'process', order(key, fields))).name;
// A call that waits for the connection to come back, as long as that takes.
export const patient = () => new grpc.Metadata({waitForReady: true});

// Why a call was refused. A connection that broke says nothing of the kind.
export const status = error => {
  const [trailer] = error.metadata?.get('grpc-status-details-bin') ?? [];
  return trailer === undefined ? undefined : google.rpc.Status.deserialize(trailer);
};
// Whether it was the connection: a refusal is final, but for UNAVAILABLE. Nothing here is cancelled by its own caller.
const {CANCELLED, INTERNAL, UNAVAILABLE, UNKNOWN} = grpc.status;
export const broken = error => error.code === UNAVAILABLE ||
  [CANCELLED, UNKNOWN, INTERNAL].includes(error.code) && status(error) === undefined;

// A server that drains refuses at once, so whoever asks again takes a break.
export const pause = () => new Promise(over => setTimeout(over, 200));

// An event, with what it holds in the types of the contract.
export const show = event => {
  const told = {sequence: event.sequence, event: event.event.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)};
  if (event.progress) told.step = event.progress.value.step;
  if (event.completed) told.status = event.completed.result.status;
  say(told);
};

// How an operation stands: with its result, with its error, or with neither.
export const end = ({state, result, error}) =>
  say({state, ...(result && {status: result.status}), ...(error && {error: readable(error)})});

// A status as proto3 JSON writes it; only durations differ.
export const readable = ({code, message, details}) => ({code, message, details: details.map(({retryDelay, ...detail}) =>
  retryDelay ? {...detail, retryDelay: `${(retryDelay.seconds ?? 0) + (retryDelay.nanos ?? 0) / 1e9}s`} : detail)});

export const close = () => [orders, documents, operations, transfers, longrunning].forEach(stub => stub.close());
