// Orders and documents from Node, with @grpc/grpc-js and @grpc/proto-loader alone: the protos are read as they are.
//
//     node main.js ADDRESS STORY KEY [FILE]

import {close, story} from './client.js';
import longrunning from './longrunning.js';
import operations from './operations.js';
import transfers from './transfers.js';

await {...operations, ...transfers, ...longrunning}[story]();
close();
