"""docs/guides/transfer.md, done as it says: by the Python client, at the terminal, by grpcurl and by stubs alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from longshore_server import config
from longshore_server.reasons import Reason
from longshore_server.transfers.stores.local import LocalStore
from longshore_server.transfers.stores.remote import RemoteStore
from longshore_server.transfers.stores.s3 import S3Store
from tests.tooling.test_guides_of_ends import GUIDES, Guide, blocks

(
    CONTRACT, SERVICE, SEND, SENT, PARTS, SENT_IN_PARTS, UPLOAD, GRPCURL, STUBS, STUBS_SENT, OTHER_SERVICE, ABORT,
    FETCH, FETCHED, DOWNLOAD, BYTESTREAM, STREAMED, STORES,
) = blocks("transfer.md")  # fmt: skip
STAND_IN = f"{sys.executable} {Path(__file__).with_name('grpcurl.py')}"
PAGE = (GUIDES / "transfer.md").read_text("utf-8")
FILE = b"%029d\n" * 20_000 % tuple(range(20_000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "may.txt").write_bytes(FILE)
    return tmp_path


async def curl(guide: Guide, command: str, uid: str = "") -> str:
    here = command.replace("localhost:50051", "$LONGSHORE_SERVER").replace("UID", uid)
    return await guide.shell(here.replace("grpcurl", STAND_IN, 1))


async def test_everything_is_sent_and_fetched_as_it_says(folder: Path) -> None:
    guide = Guide(folder, CONTRACT, SERVICE)
    stored = folder / "data" / "stores" / "archive"
    async with guide.served():
        assert await guide.run(SEND) == SENT.text
        assert await guide.run(PARTS) == SENT_IN_PARTS.text
        for command in UPLOAD.commands:
            await guide.shell(command)
        for name in ("may", "june", "again", "piped"):
            assert (stored / "reports" / f"{name}.txt").read_bytes() == FILE

        start, get, send = GRPCURL.commands
        await curl(guide, start)
        grant = json.loads(await curl(guide, get))["upload"]
        assert {"name", "state", "expireTime", "maxChunkBytes"} <= grant.keys()
        answer = json.loads(await curl(guide, send, grant["name"].removeprefix("uploads/")))
        assert answer["upload"]["state"] == "STATE_COMMITTED"
        assert (stored / "hello.txt").read_bytes() == b"hello\n"

        assert await guide.run(STUBS) == STUBS_SENT.text
        assert (stored / "reports" / "july.txt").read_bytes() == FILE

        assert await guide.run(FETCH) == FETCHED.text
        assert (folder / "fetched.txt").read_bytes() == FILE
        printed = [await guide.shell(command) for command in DOWNLOAD.commands]
        assert (folder / "copy.txt").read_bytes() == FILE
        assert printed[-1].strip() == str(len(FILE))

        assert await guide.run(BYTESTREAM) == STREAMED.text


async def test_an_upload_that_ctrl_c_has_left_goes_on_as_it_says(folder: Path) -> None:
    guide = Guide(folder, CONTRACT, SERVICE)
    async with guide.served():
        await curl(guide, GRPCURL.commands[0].replace('"5"', '"3"').replace("hello", "left"))
        (resume,) = re.findall(r"`(longshore upload --resume [^`]*)`", PAGE)
        await guide.shell(resume)
    assert (folder / "data" / "stores" / "archive" / "left.txt").read_bytes() == FILE


async def test_the_other_handler_catches_an_abort_and_offers_less(folder: Path) -> None:
    guide = Guide(folder, CONTRACT, OTHER_SERVICE)
    async with guide.served():
        start, abort, wait = ABORT.commands
        await curl(guide, start)
        upload = json.loads(await guide.shell("longshore get archive-store-7 --json"))["upload"]
        await curl(guide, abort, upload["name"].removeprefix("uploads/"))
        assert json.loads(await guide.shell(wait)) == {}

        command, _ = UPLOAD.commands
        await guide.shell(command)
        await guide.shell('longshore call Fetch -d \'{"id": "9", "key": "reports/again.txt"}\' --wait')
        offers = json.loads(await guide.shell("longshore get archive-fetch-9 --json"))["downloads"]
        assert [offer.get("revoked", False) for offer in offers] == [False, True]
        fetch = [f"longshore download {offer['name']} --to - | wc -c" for offer in offers]
        assert [int(await guide.shell(command)) for command in (*fetch, fetch[0])] == [len(FILE), 0, 0]


def test_its_stores_are_what_the_configuration_takes(tmp_path: Path) -> None:
    (tmp_path / "longshore.toml").write_text(STORES.text)
    kinds = {
        settings.name: type(settings.make()) for settings in config.load({}, {}, tmp_path / "longshore.toml").stores
    }
    assert kinds == {"archive": S3Store, "drafts": LocalStore, "exports": RemoteStore, "backups": RemoteStore}
    (option,) = re.findall(r"--store (\S+)`", PAGE)
    assert [store.url for store in config.load({"stores": (option,)}, {}).stores] == ["/srv/archive"]


def test_its_tables_name_what_there_is() -> None:
    named = {word.partition(":")[0] for word in re.findall(r"^\| `([a-z_]+)", PAGE, re.MULTILINE)}
    assert named == {
        "max_bytes", "expiry", "require_checksum", "on_mismatch", "refuse_existing", "delete_with_operation"
    }  # fmt: skip
    reasons = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE))
    assert reasons <= {reason.name for reason in Reason}
    rows = re.findall(r"^\|[^|]*\| ([A-Z_]+), ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for code, names in rows:
        assert {Reason[name].code.name for name in re.findall(r"`(\w+)`", names)} == {code}
