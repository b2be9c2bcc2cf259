"""A store whose disk is away when the server starts: nothing is taken for lost that is only not there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from longshore_server.store.database import StoreError
from longshore_server.transfers.stores import LocalStore
from tests.conftest import reason_of_end
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, commit, header, send
from tests.server.transfers.uploading import DATA, State, waiting


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where the disk is mounted."""
    return tmp_path / "disk"


@pytest.fixture
async def lab(tmp_path: Path, disk: Path) -> AsyncIterator[BytesLab]:
    found = BytesLab(tmp_path / "data", stores={"uploads": LocalStore(disk), "exports": LocalStore()})
    await found.start()
    yield found
    await found.stop()


def entries(folder: Path) -> list[Path] | None:
    """What is in it; None: it is not there."""
    return list(folder.iterdir()) if folder.exists() else None


def move(source: Path, target: Path) -> None:
    source.rename(target)


def make(folder: Path) -> None:
    folder.mkdir(parents=True)


def write(path: Path, text: str) -> None:
    make(path.parent)
    path.write_text(text, "ascii")


async def begun(lab: BytesLab) -> str:
    """An upload of which 10 bytes are durable."""
    name: str = (await waiting(lab)).upload.name
    assert (await send(lab.transfers, header(name), chunk(0, DATA[:10]))).committed_size == 10
    return name


@pytest.mark.parametrize("mounted", [True, False])
async def test_a_server_does_not_start_on_the_mount_point_of_a_disk_that_is_away(
    mounted: bool, lab: BytesLab, disk: Path
) -> None:
    name = await begun(lab)
    await lab.harness.stop()
    away = disk.with_name("away")
    move(disk, away)
    if mounted:
        make(disk)
    with pytest.raises(StoreError, match=f"store uploads: {disk} is not the folder .* mount the disk"):
        await lab.begin_anew()
    assert entries(disk) == ([] if mounted else None), "nothing is made there"

    if mounted:
        shutil.rmtree(disk)
    move(away, disk)
    await lab.begin_anew()
    assert (await send(lab.transfers, header(name), chunk(10, DATA[10:]), commit(DATA))).state == State.STATE_COMMITTED


async def test_a_server_does_not_start_on_the_disk_of_another(lab: BytesLab, disk: Path, tmp_path: Path) -> None:
    other = BytesLab(tmp_path / "other", stores={"uploads": LocalStore(tmp_path / "others"), "exports": LocalStore()})
    await other.start()
    await other.stop()
    await lab.harness.stop()
    move(disk, disk.with_name("away"))
    move(tmp_path / "others", disk)
    with pytest.raises(StoreError, match="is not the folder that its objects were in"):
        await lab.begin_anew()


async def test_a_disk_that_is_gone_for_good_is_given_up_as_the_refusal_says(lab: BytesLab, disk: Path) -> None:
    name = await begun(lab)
    await lab.harness.stop()
    shutil.rmtree(disk)
    with pytest.raises(StoreError) as caught:
        await lab.begin_anew()
    mark, path = str(caught.value).partition("write ")[2].split(" into ")
    write(Path(path), mark)
    await lab.begin_anew()
    with pytest.raises(Exception, match="lost bytes"):
        await send(lab.transfers, header(name), chunk(10, DATA[10:]))
    ended = await lab.end(name.replace("uploads/", "operations/"))
    assert reason_of_end(ended) == "OBJECT_CORRUPT"


async def test_a_folder_that_moves_is_the_same(lab: BytesLab, disk: Path, tmp_path: Path) -> None:
    """Also for a server that has never seen it: a database may be lost, and the objects are there."""
    await lab.server.stores["uploads"].put("key", b"data")
    await lab.harness.stop()
    move(disk, tmp_path / "moved")
    moved = LocalStore(tmp_path / "moved")
    found = BytesLab(tmp_path / "fresh", stores={"uploads": moved, "exports": LocalStore()})
    for _ in range(3):
        await found.start()
        assert (await moved.stat("key")).size == 4
        await found.stop()
