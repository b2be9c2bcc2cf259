"""Stores that have started: a folder, and a bucket in an S3 of our own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from longshore_server.transfers.stores import LocalStore
from longshore_server.transfers.stores.s3 import S3Store
from tests.server.transfers.buckets import LocalS3, local_s3
from tests.server.transfers.clouds import local_azure, local_google
from tests.server.transfers.stores.pushing import Make


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "uploads"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[LocalStore]:
    made = LocalStore(max_object_bytes=1 << 30)
    await made.start("uploads", root)
    yield made
    await made.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def server() -> Iterator[LocalS3]:
    with local_s3() as found:
        yield found


@pytest.fixture
def s3(server: LocalS3) -> LocalS3:
    server.clear()
    return server


@pytest.fixture(scope="session")
def az() -> Iterator[Mapping[str, str]]:
    """An Azure, by the environment in which it is found."""
    if shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    with local_azure() as found:
        yield found


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """A Google Cloud Storage, likewise."""
    with local_google(tmp_path_factory.mktemp("google")) as found:
        yield found


@pytest.fixture
async def make(s3: LocalS3, tmp_path: Path) -> AsyncIterator[Make]:
    """Starts stores on the one bucket; stops them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**options: Any) -> S3Store:
            store = S3Store(**{**s3.settings("/pre/fix"), **options})
            stack.push_async_callback(store.stop)
            await store.start("uploads", tmp_path / "uploads")
            return store

        yield make
