"""Objects in S3, or in another service that speaks it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from obstore.store import S3Store as Bucket

from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores.base import MAX_OBJECT, Save
from longshore_server.transfers.stores.remote import AT_ONCE, FACTS, PART, RETRIES, RemoteStore, attributes
from longshore_server.transfers.threads import in_thread

_MOST_PARTS = 10_000
_MIB = 1 << 20
_PARTS = 8
"""How many parts of all objects are sent at once: each is in memory meanwhile, more than once."""
_LASTING = frozenset({"NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
"""What S3 answers until somebody mends the bucket, the rights or the keys."""
_UNLISTED = frozenset({"AccessDenied", "NotImplemented"})
"""What it answers whoever may not see which uploads there are; other services may not know the question."""


class Push(msgspec.Struct, frozen=True):
    """A file on its way to S3, as it is kept over restarts: first that it will begin, then what has begun."""

    part: int
    """Bytes of every part but the last."""
    upload: str = ""
    """What S3 calls the upload; empty: that is not known yet."""
    others: frozenset[str] | None = None
    """The uploads to the key that there were before. Any other one has been begun for this file. None: S3 did not say
    which there were, so none is known to be ours."""


class S3Store(RemoteStore):
    """Objects in a bucket of S3. Large ones go there in parts, and go on after a restart where they were.

    Keys and, where they are not said here, region and endpoint come from where every AWS SDK looks for them.

    Args:
        url: `s3://BUCKET/PREFIX`.
        max_object_bytes: the largest object that the store takes.
        region: of the bucket.
        endpoint: URL of another service that speaks S3.
        allow_http: whether that may be without TLS.
    """

    def __init__(
        self, url: str, *, max_object_bytes: int = MAX_OBJECT, region: str = "", endpoint: str = "",
        allow_http: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(url, max_object_bytes=max_object_bytes)
        self._name, _, self._prefix = url.removeprefix("s3://").strip("/").partition("/")
        self._region = region
        self._endpoint = endpoint
        self._allow_http = allow_http
        self._session = get_session()
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._room = asyncio.Semaphore(_PARTS)

    async def _connect(self) -> Any:
        try:
            return await self._open()
        except BotoCoreError as error:
            # What it reads for every SDK, such as AWS_PROFILE.
            raise ValueError(str(error)) from error

    async def _open(self) -> Any:
        region = self._region or self._session.get_config_variable("region") or "us-east-1"
        config = AioConfig(
            # Sums that not every service knows: S3 itself gets the MD5 of each part.
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": RETRIES["max_retries"] + 1},
            s3={"addressing_style": "path"} if self._endpoint else None,
        )  # fmt: skip
        client = self._session.create_client(
            "s3", region_name=region, endpoint_url=self._endpoint or None, config=config
        )
        self._client = await self._stack.enter_async_context(client)
        options: dict[str, Any] = {"endpoint": self._endpoint} if self._endpoint else {}
        return Bucket(
            self._name, prefix=self._prefix or None, region=region, retry_config=RETRIES,
            client_options={"allow_http": self._allow_http}, credential_provider=self._credentials, **options,
        )  # fmt: skip

    async def stop(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    async def _credentials(self) -> Any:
        found = await self._session.get_credentials()
        if found is None:
            raise ValueError("there are no credentials for S3")
        keys = await found.get_frozen_credentials()
        # The session renews them; this is how soon it is asked again.
        expires = datetime.now(UTC) + timedelta(minutes=5)
        return {
            "access_key_id": keys.access_key, "secret_access_key": keys.secret_key, "token": keys.token,
            "expires_at": expires,
        }  # fmt: skip

    async def _send(self, staged: Path, info: ObjectInfo, *, overwrite: bool, state: bytes, save: Save | None) -> None:
        if info.size <= PART:
            await super()._send(staged, info, overwrite=overwrite, state=state, save=save)
            return
        push = msgspec.json.decode(state, type=Push) if state else None
        done = await self._parts(info.key, push) if push is not None and push.upload else None
        saved = done is not None
        if push is None or done is None:
            await self.give_up(info.key, state)
            # Parts are of one size; a whole number of MiB, and large enough for their number.
            size = max(PART, -(-info.size // (_MOST_PARTS * _MIB)) * _MIB)
            push, done = Push(size, others=await self._begun(info.key)), {}
            if save is not None:
                await save(msgspec.json.encode(push))
        try:
            if not saved:
                push = Push(push.part, await self._begin(staged, info))
                if save is not None:
                    await save(msgspec.json.encode(push))
                    saved = True
            await self._send_parts(staged, info, push, done)
            await self._complete(info, push, overwrite)
        except BaseException as error:
            known = saved or (save is not None and not push.upload)
            if not known or (isinstance(error, ObjectError) and error.reason is Reason.OBJECT_EXISTS):
                with contextlib.suppress(ObjectError):
                    await self.give_up(info.key, msgspec.json.encode(push))
            raise

    async def _begin(self, staged: Path, info: ObjectInfo) -> str:
        described = attributes(staged, info)
        content = {"ContentType": info.content_type} if info.content_type else {}
        with _refusing(info.key):
            made = await self._client.create_multipart_upload(
                **self._place(info.key), Metadata={FACTS: described[FACTS]}, **content
            )
        upload: str = made["UploadId"]
        return upload

    async def _begun(self, key: str) -> frozenset[str] | None:
        """What S3 calls the uploads to a key that nobody has completed; None: it does not say."""
        place = self._place(key)
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=place["Bucket"], Prefix=place["Key"]
        )
        with _refusing(key):
            try:
                found = [upload async for page in pages for upload in page.get("Uploads", ())]
            except ClientError as error:
                if error.response["Error"]["Code"] in _UNLISTED:
                    return None
                raise
        return frozenset(upload["UploadId"] for upload in found if upload["Key"] == place["Key"])

    async def _parts(self, key: str, push: Push) -> dict[int, dict[str, Any]] | None:
        """The parts that are there, by number. None: S3 does not know the upload any more."""
        pages = self._client.get_paginator("list_parts").paginate(**self._place(key), UploadId=push.upload)
        with _refusing(key):
            try:
                return {part["PartNumber"]: part async for page in pages for part in page.get("Parts", ())}
            except self._client.exceptions.NoSuchUpload:
                return None

    async def _send_parts(self, staged: Path, info: ObjectInfo, push: Push, done: dict[int, Any]) -> None:
        def missing() -> Iterator[tuple[int, int, int]]:
            for number, start in enumerate(range(0, info.size, push.part), 1):
                size = min(push.part, info.size - start)
                if number not in done or done[number]["Size"] != size:
                    yield number, start, size

        async def send(parts: Iterator[tuple[int, int, int]]) -> None:
            for number, start, size in parts:
                async with self._room:
                    data, digest = await in_thread(_read, staged, start, size)
                    with _refusing(info.key):
                        await self._client.upload_part(
                            **self._place(info.key), UploadId=push.upload, PartNumber=number, Body=data,
                            ContentMD5=digest,
                        )  # fmt: skip
                    del data  # not kept until the next one is read

        parts = missing()
        try:
            async with asyncio.TaskGroup() as group:
                # Parts are larger where their number would be too large otherwise.
                for _ in range(max(1, AT_ONCE * PART // push.part)):
                    group.create_task(send(parts))
        except* ObjectError as errors:
            raise errors.exceptions[0] from None

    async def _complete(self, info: ObjectInfo, push: Push, overwrite: bool) -> None:
        parts = await self._parts(info.key, push) or {}
        listed = [{"PartNumber": number, "ETag": part["ETag"]} for number, part in sorted(parts.items())]
        condition = {} if overwrite else {"IfNoneMatch": "*"}
        with _refusing(info.key):
            await self._client.complete_multipart_upload(
                **self._place(info.key), UploadId=push.upload, MultipartUpload={"Parts": listed}, **condition
            )

    async def give_up(self, key: str, state: bytes) -> None:
        """Have S3 drop the parts, as far as it says which they are."""
        if not state:
            return
        push = msgspec.json.decode(state, type=Push)
        if push.upload:
            uploads = frozenset({push.upload})
        elif push.others is None:
            return
        else:
            # Whoever was to note what it had begun may not have lived to.
            uploads = (await self._begun(key) or frozenset()) - push.others
        for upload in uploads:
            with _refusing(key), contextlib.suppress(self._client.exceptions.NoSuchUpload):
                await self._client.abort_multipart_upload(**self._place(key), UploadId=upload)

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": f"{self._prefix}/{key}" if self._prefix else key}


def _read(staged: Path, start: int, size: int) -> tuple[bytes, str]:
    """A part of a file, and its MD5 as S3 wants it."""
    with staged.open("rb") as file:
        file.seek(start)
        data = file.read(size)
    return data, base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@contextlib.contextmanager
def _refusing(key: str) -> Iterator[None]:
    """Raises `ObjectError` for what S3 refuses inside the block."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        reason = Reason.OBJECT_EXISTS if code == "PreconditionFailed" else Reason.STORE_UNAVAILABLE
        raise ObjectError(reason, f"{key}: {error}", lasting=code in _LASTING) from error
    except (BotoCoreError, OSError) as error:
        raise ObjectError(Reason.STORE_UNAVAILABLE, f"{key}: {error}") from error
