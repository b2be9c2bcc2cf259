"""Bytes there and back, over any number of connections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import grpc
from acme.documents.v1 import documents_pb2
from stubs import Stubs, broken, pause, say

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as bytes_pb

CHUNK = 64 << 10


class Transfers(Stubs):
    """An upload and a download, each taken up where it was cut off."""

    def upload(self, key: str, file: str) -> None:
        """From where the server has it, over any number of connections."""
        data = Path(file).read_bytes()
        name = self.documents.Upload(documents_pb2.UploadRequest(key=key)).name
        upload = self.operations.Get(pb.GetRequest(name=name)).upload.name
        while True:
            try:
                request = bytes_pb.QueryUploadRequest(name=upload)
                offset = self.transfers.QueryUpload(request, wait_for_ready=True).committed_size
                say(resumed_at=offset)
                grant = self.transfers.Upload(pieces(upload, data, offset), wait_for_ready=True).upload
                say(committed=grant.committed_size, sha256=grant.digests.sha256.hex())
                break
            except grpc.RpcError as error:
                # Bytes of the broken call may have come after that question: OUT_OF_RANGE, so ask again.
                if not broken(error) and error.code() != grpc.StatusCode.OUT_OF_RANGE:
                    raise
                pause()
        result = documents_pb2.FilesUploadResult()
        self.operations.Wait(pb.WaitRequest(name=name)).result.Unpack(result)
        say(download=result.download)

    def download(self, key: str) -> None:
        """From where the caller has it: of the same object."""
        data, request = bytearray(), bytes_pb.DownloadRequest(name=key)
        while True:
            try:
                for message in self.transfers.Download(request, wait_for_ready=True):
                    if message.HasField("header"):
                        request.if_sha256 = message.header.download.digests.sha256
                    if message.HasField("chunk"):
                        assert google_crc32c.value(message.chunk.data) == message.chunk.crc32c
                        if not data:
                            say(begun=len(message.chunk.data))
                        data += message.chunk.data
                break
            except grpc.RpcError as error:
                if not broken(error):
                    raise
                request.offset = len(data)
                say(resumed_at=request.offset)
                pause()
        assert hashlib.sha256(data).digest() == request.if_sha256
        say(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def pieces(upload: str, data: bytes, offset: int) -> Iterator[bytes_pb.UploadRequest]:
    yield bytes_pb.UploadRequest(header=bytes_pb.UploadHeader(upload=upload, total_size=len(data)))
    for at in range(offset, len(data), CHUNK):
        piece = data[at : at + CHUNK]
        chunk = bytes_pb.UploadChunk(offset=at, data=piece, crc32c=google_crc32c.value(piece))
        yield bytes_pb.UploadRequest(chunk=chunk)
    commit = bytes_pb.UploadCommit(total_size=len(data), sha256=hashlib.sha256(data).digest())
    yield bytes_pb.UploadRequest(commit=commit)
