"""Stores as the configuration declares them, by name and URL."""

from __future__ import annotations

import re
from dataclasses import dataclass

from longshore_server.transfers.stores.base import MAX_OBJECT, Store
from longshore_server.transfers.stores.local import LocalStore

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_REMOTE = ("s3", "gs", "az")
_S3_ONLY = ("region", "endpoint", "allow_http")


@dataclass(frozen=True)
class StoreSettings:
    """What the configuration says of one store.

    Raises `ValueError`, naming the option, when it means nothing.
    """

    name: str
    """What contracts call it."""
    url: str = ""
    """A folder, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`; empty: `stores/NAME` in the
    data directory."""
    max_object_bytes: int = MAX_OBJECT
    """The largest object that it takes, in bytes."""
    region: str = ""
    """Of S3. Empty: what AWS_REGION or AWS_DEFAULT_REGION says."""
    endpoint: str = ""
    """URL of another service that speaks S3."""
    allow_http: bool = False
    """Whether `endpoint` may be one without TLS."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= self.max_object_bytes <= MAX_OBJECT:
            raise ValueError(f"max_object_bytes: {self.max_object_bytes} is not between 1 and {MAX_OBJECT:,}")
        scheme, place = self._parts
        if scheme not in ("file", *_REMOTE):
            raise ValueError(f"url: {self.url!r} is neither a folder nor one of s3://, gs:// and az://")
        if scheme in _REMOTE and not place.partition("/")[0]:
            raise ValueError(f"url: {self.url!r} names no bucket")
        if scheme in _REMOTE and (more := re.search(r"[?#].*", place)):
            beside = "region, endpoint and allow_http of S3 are keys of their own"
            raise ValueError(f"url: {more[0]!r} is no part of a bucket or prefix; leave it out: {beside}")
        if scheme != "s3":
            for option in _S3_ONLY:
                if getattr(self, option):
                    raise ValueError(f"{option}: it means nothing without a URL that begins with s3://")
        if self.endpoint.startswith("http://") and not self.allow_http:
            raise ValueError(f"endpoint: {self.endpoint!r} has no TLS; say allow_http = true if that is what you want")

    @property
    def _parts(self) -> tuple[str, str]:
        scheme, separator, place = self.url.partition("://")
        return (scheme, place) if separator else ("file", self.url)

    def make(self) -> Store:
        """The store. Raises `ImportError` when it needs packages that are not installed."""
        scheme, place = self._parts
        if scheme == "file":
            return LocalStore(place or None, max_object_bytes=self.max_object_bytes)
        if scheme != "s3":
            from longshore_server.transfers.stores.remote import RemoteStore

            return RemoteStore(self.url, max_object_bytes=self.max_object_bytes)
        from longshore_server.transfers.stores.s3 import S3Store

        return S3Store(
            self.url, max_object_bytes=self.max_object_bytes, region=self.region, endpoint=self.endpoint,
            allow_http=self.allow_http,
        )  # fmt: skip


def check_name(name: str) -> None:
    """Raises `ValueError` for what cannot name a store."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a store: lower-case letters, digits, - and _, 63 at most")
