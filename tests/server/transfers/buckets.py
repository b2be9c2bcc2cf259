"""A local S3, for stores that are remote."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from moto.backends import get_backend
from moto.s3.exceptions import S3ClientError
from moto.server import ThreadedMotoServer

REGION = "eu-central-1"


class LocalS3:
    """A server that speaks S3 on loopback, with one bucket."""

    def __init__(self, server: ThreadedMotoServer) -> None:
        host, port = server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self._backend: Any = get_backend("s3")["123456789012"]["aws"]
        self.begun = 0
        """How many uploads in parts have been begun."""
        self.on_part: Callable[[], object] = lambda: None
        """Called in a thread of the server when a part has arrived, before that is answered."""
        self.lists_uploads = True
        """Whether callers may ask which uploads in parts are under way."""
        self._open()

    def clear(self) -> None:
        """Remove everything."""
        self._backend.reset()
        self._open()

    def _open(self) -> None:
        backend, self.begun, self.lists_uploads = self._backend, 0, True
        begin, take = backend.create_multipart_upload, backend.upload_part
        uploads = backend.list_multipart_uploads

        def begins(*arguments: Any, **options: Any) -> Any:
            self.begun += 1
            return begin(*arguments, **options)

        def takes(*arguments: Any, **options: Any) -> Any:
            part = take(*arguments, **options)
            self.on_part()
            return part

        def lists(*arguments: Any) -> Any:
            if not self.lists_uploads:
                raise S3ClientError("AccessDenied", "Access Denied")
            return uploads(*arguments)

        backend.create_multipart_upload, backend.upload_part = begins, takes
        backend.list_multipart_uploads = lists
        backend.create_bucket("bucket", REGION)

    def put(self, key: str, data: bytes, metadata: dict[str, str]) -> None:
        """As somebody else does it."""
        found = self._backend.put_object("bucket", key, data)
        found.set_metadata({"content-type": "text/html", **{f"x-amz-meta-{k}": v for k, v in metadata.items()}})

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        value: bytes = self._backend.get_object("bucket", key).value
        return value

    @property
    def objects(self) -> list[str]:
        """The keys of everything in the bucket."""
        return sorted(self._backend.buckets["bucket"].keys)

    @property
    def uploads(self) -> int:
        """How many uploads in parts are under way."""
        return len(self._backend.buckets["bucket"].multiparts)

    def settings(self, prefix: str = "") -> dict[str, Any]:
        """What a store is made with."""
        return {"url": f"s3://bucket{prefix}", "region": REGION, "endpoint": self.endpoint, "allow_http": True}


@contextlib.contextmanager
def local_s3() -> Iterator[LocalS3]:
    """An S3 for the block, with nothing in it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield LocalS3(server)
    finally:
        server.stop()
        get_backend("s3").reset()
