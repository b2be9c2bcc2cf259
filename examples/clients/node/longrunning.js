// google.longrunning, by the generated stub: an operation is asked for until it is done.

import grpc from '@grpc/grpc-js';
import {call, key, longrunning, place, say} from './client.js';

export default {
  // Its result and its metadata, in the types of the contract.
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
