// Bytes there and back, over any number of connections.

import {createHash} from 'node:crypto';
import {readFileSync} from 'node:fs';
import grpc from '@grpc/grpc-js';
import {broken, call, documents, file, key, operations, patient, pause, say, transfers} from './client.js';
import {crc32c} from './crc32c.js';

const CHUNK = 64 << 10;

export default {
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
        await pause();
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
          if (request.offset === 0) say({begun: chunk.data.length});
          digest.update(chunk.data);
          request.offset += chunk.data.length;
        }
        break;
      } catch (error) {
        if (!broken(error)) throw error;
        say({resumed_at: request.offset});
        await pause();
      }
    }
    const sha256 = digest.digest();
    if (!sha256.equals(request.ifSha256)) throw new Error('the bytes are not those that were stored');
    say({size: request.offset, sha256: sha256.toString('hex')});
  },
};

// Sends what there is from an offset on, and commits it.
export const send = (upload, data, offset) => new Promise((resolve, reject) => {
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
