"""Where a server finds its stores: in its own code, in its configuration, and under which names."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from longshore_server import Config, ConfigError, LocalStore, Server, StoreError
from longshore_server.testing import Harness
from longshore_server.transfers.stores.settings import StoreSettings
from tests.conftest import LabHandlers


async def test_a_store_is_in_the_data_directory_unless_it_has_a_folder(tmp_path: Path) -> None:
    stores = {"uploads": LocalStore(), "docs": LocalStore(tmp_path / "elsewhere")}
    server = Server(LabHandlers(), stores=stores)
    async with Harness(server, tmp_path / "data").serve():
        assert server.stores == stores
        await server.stores["uploads"].put("a/b", b"x")
        await server.stores["docs"].put("a/b", b"y")
        assert stores["uploads"].name == "uploads"
    assert (tmp_path / "data/stores/uploads/a/b").read_bytes() == b"x"
    assert (tmp_path / "elsewhere/a/b").read_bytes() == b"y"
    assert not (tmp_path / "data/stores/docs").exists()


async def test_the_configuration_comes_before_the_code(tmp_path: Path) -> None:
    uploads, docs = LocalStore(tmp_path / "code"), LocalStore()
    server = Server(LabHandlers(), stores={"uploads": uploads, "docs": docs})
    settings = (
        StoreSettings("uploads", str(tmp_path / "configured"), max_object_bytes=7),
        StoreSettings("more", f"file://{tmp_path / 'more'}"),
    )
    harness = Harness(server, tmp_path / "data", stores=settings)
    for stop in (harness.crash, harness.stop):
        await harness.start()
        assert server.stores.keys() == {"uploads", "docs", "more"}
        await server.stores["uploads"].put("key", b"x" * 7)
        with pytest.raises(ValueError, match="at most 7 bytes"):
            await server.stores["uploads"].put("key", b"x" * 8)
        await server.stores["more"].put("key", b"x")
        await stop()
        assert server.stores == {"uploads": uploads, "docs": docs}, "as the code says, until the next start"
    assert (tmp_path / "configured/key").exists()
    assert (tmp_path / "more/key").exists()
    assert not (tmp_path / "code").exists()


async def test_the_lifespan_and_what_it_starts_can_use_stores(tmp_path: Path) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(server: Server) -> AsyncIterator[None]:
        await server.stores["uploads"].put("first", b"x")
        yield
        await server.stores["uploads"].put("last", b"x")

    server = Server(LabHandlers(), lifespan=lifespan, stores={"uploads": LocalStore(tmp_path / "uploads")})
    async with Harness(server, tmp_path / "data").serve():
        pass
    assert (tmp_path / "uploads/first").exists()
    assert (tmp_path / "uploads/last").exists()


async def test_two_servers_cannot_have_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    async with Harness(Server(LabHandlers(), stores={"uploads": LocalStore(folder)}), tmp_path / "one").serve():
        second = Harness(Server(LabHandlers(), stores={"docs": LocalStore(folder)}), tmp_path / "two")
        with pytest.raises(StoreError, match=r"the store docs is in use by another server .* with --store docs=PATH$"):
            await second.start()
    await second.start()
    await second.stop()


@pytest.mark.parametrize("name", ["", "Up", "a b", "a/b", "..", "-a", "a" * 64])
def test_what_cannot_name_a_store_is_refused_where_the_server_is_written(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a store"):
        Server(LabHandlers(), stores={name: LocalStore()})


@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket"])
async def test_a_remote_store_without_its_packages_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for name in ("remote", "s3"):
        monkeypatch.delitem(sys.modules, f"longshore_server.transfers.stores.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "aiobotocore.session", None)
    with pytest.raises(ConfigError, match=r'^stores: uploads: .*pip install "longshore-grpc\[stores\]"$'):
        await Harness(Server(LabHandlers()), tmp_path, stores=(StoreSettings("uploads", url),)).start()


@pytest.mark.parametrize(
    ("url", "options", "kind"),
    [
        ("s3://bucket/prefix", {"region": "eu-central-1"}, "S3Store"),
        ("gs://bucket", {}, "RemoteStore"),
        ("az://container/prefix", {}, "RemoteStore"),
        ("relative/folder", {}, "LocalStore"),
        ("", {}, "LocalStore"),
    ],
)
def test_a_url_says_which_kind_of_store_it_is(url: str, options: dict[str, Any], kind: str) -> None:
    made = StoreSettings("uploads", url, max_object_bytes=9, **options).make()
    assert (type(made).__name__, made.max_object_bytes) == (kind, 9)


def test_a_configuration_is_a_value() -> None:
    assert Config(stores=(StoreSettings("a"),)) == Config(stores=(StoreSettings("a"),)) != Config()
