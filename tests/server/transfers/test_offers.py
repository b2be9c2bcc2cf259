"""What the service offers to its callers: by a handler, in its journal, and by whoever controls the operation."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import google_crc32c
import pytest
from bytes.v1 import bytes_longshore
from bytes.v1.bytes_pb2 import BytesRequest
from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as tpb
from longshore.v1.operation_pb2 import DownloadGrant, OperationSnapshot
from longshore_server import (
    Code,
    DuplicateNameError,
    LocalStore,
    Offer,
    Reason,
    ServiceError,
    StepRetry,
    TransferError,
)
from longshore_server.clock import SECOND
from longshore_server.engine.objects import MAX_URL
from longshore_server.transfers.objects import ObjectInfo
from tests.conftest import Crash, Lab, reason_of_end, refused, result_of
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import fetch

DATA = bytes(range(256)) * 40
State = OperationSnapshot.State


async def put(lab: BytesLab, key: str = "out/report.pdf", data: bytes = DATA, store: str = "exports") -> None:
    await lab.server.stores[store].put(key, data, content_type="application/pdf")


def seconds(lab: BytesLab, after: float) -> datetime:
    """So long from now, by the laboratory's clock."""
    return datetime.fromtimestamp((lab.clock.now() + after * SECOND) / SECOND, UTC)


class Slow:
    """Holds up the first question that the store of the exports is asked."""

    def __init__(self, lab: BytesLab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        store = lab.server.stores["exports"]
        self._stat = store.stat
        monkeypatch.setattr(store, "stat", self)

    async def __call__(self, key: str) -> ObjectInfo:
        if not self.asked.is_set():
            self.asked.set()
            await self.go.wait()
        return await self._stat(key)


async def test_a_handler_offers_an_object_and_callers_fetch_it(lab: BytesLab) -> None:
    await put(lab)
    made: list[Offer] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        made.append(await op.transfer.offer("out/report.pdf"))
        return PlayResult()

    operation = (await lab.begin("Offer")).operation
    ended = await lab.end(operation.name)
    name = f"downloads/{operation.uid}.1"
    wanted = Offer(
        name, len(DATA), hashlib.sha256(DATA).hexdigest(), "report.pdf", "application/pdf", seconds(lab, 3600), 0, ""
    )
    assert made == [wanted]
    (grant,) = ended.downloads
    assert (grant.name, grant.size, grant.filename) == (name, len(DATA), "report.pdf")
    assert (grant.digests.sha256, grant.digests.crc32c) == (hashlib.sha256(DATA).digest(), google_crc32c.value(DATA))
    assert grant.expire_time.ToMicroseconds() == lab.clock.now() + 3600 * SECOND
    (event,) = [event for event in await lab.events(operation.name) if event.HasField("offered")]
    assert event.offered.download == grant
    assert (await fetch(lab, name)).data == DATA


async def test_an_offer_is_visible_when_it_returns(lab: BytesLab) -> None:
    await put(lab)
    offered, go = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.offer("out/report.pdf")
        offered.set()
        await go.wait()
        return PlayResult()

    operation = (await lab.begin("Offer")).operation
    await offered.wait()
    assert [grant.name for grant in (await lab.get(operation.name)).downloads] == [f"downloads/{operation.uid}.1"]
    go.set()
    await lab.end(operation.name)


async def test_what_an_offer_says_is_what_callers_get(lab: BytesLab) -> None:
    await put(lab)
    await put(lab, "seen.txt", b"text", "uploads")
    begin = lab.clock.now()

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        offer = op.transfer.offer
        await offer("out/report.pdf", filename="Report 2031.pdf", content_type="application/x-report", max_uses=3)
        await offer("seen.txt", store="uploads", content_type="", expires_in=90)
        await offer("out/report.pdf", name="again", expires_in=timedelta(days=2), max_uses=0)
        return PlayResult()

    one, two, three = (await lab.end((await lab.begin("Offer")).operation.name)).downloads
    assert (one.filename, one.content_type, one.max_uses) == ("Report 2031.pdf", "application/x-report", 3)
    assert (two.filename, two.content_type, two.size, two.max_uses) == ("seen.txt", "", 4, 0)
    expiries = [grant.expire_time.ToMicroseconds() - begin for grant in (one, two, three)]
    assert expiries == [3600 * SECOND, 90 * SECOND, 2 * 86_400 * SECOND]
    assert (await fetch(lab, two.name)).data == b"text"


async def test_a_contract_says_how_long_and_how_often(lab: BytesLab) -> None:
    await put(lab)
    problems: list[str] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.offer("out/report.pdf")
        await op.transfer.offer("out/report.pdf", name="once", max_uses=1)
        for uses in (0, 3, -1):
            with pytest.raises(ValueError, match=f"cannot offer {uses} uses") as caught:
                await op.transfer.offer("out/report.pdf", max_uses=uses, name=f"{uses} uses")
            problems.append(str(caught.value))
        return PlayResult()

    ended = await lab.end((await lab.begin("Ticket")).operation.name)
    assert [grant.max_uses for grant in ended.downloads] == [2, 1]
    assert ended.downloads[0].expire_time.ToMicroseconds() == lab.clock.now() + 60 * SECOND
    assert problems[1] == "cannot offer 3 uses: the contract of bytes.v1.BytesService/Ticket allows 2"


async def test_an_operation_that_takes_bytes_offers_some_too(lab: BytesLab) -> None:
    """For an hour: the contract's expiry is that of its upload."""
    await put(lab, "thumbnail.png", b"small", "uploads")

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.offer("thumbnail.png")
        return PlayResult()

    (grant,) = (await lab.end((await lab.begin("Small")).operation.name)).downloads
    assert grant.expire_time.ToMicroseconds() == lab.clock.now() + 3600 * SECOND
    assert (await fetch(lab, grant.name)).data == b"small"


@pytest.mark.parametrize("changed", [False, True])
async def test_a_re_run_gets_the_same_offers(lab: BytesLab, changed: bool) -> None:
    """Though the object or the time has changed by then."""
    await put(lab)
    crash = Crash(lab)
    names: list[list[Offer]] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        found = [await op.transfer.offer("out/report.pdf", expires_in=7200)]
        found.append(await op.transfer.offer("out/report.pdf", name="again"))
        names.append(found)
        await crash.here(op)
        return PlayResult()

    operation = (await lab.begin("Offer")).operation
    await crash.reached.wait()
    if changed:
        await put(lab, data=b"another")
        lab.clock.advance(100)
    await crash.happen()
    ended = await lab.end(operation.name)
    assert ended.state == State.STATE_COMPLETED
    assert names[0] == names[1]
    assert [grant.name for grant in ended.downloads] == [offer.name for offer in names[0]]


async def test_another_try_of_a_step_finds_the_offer_of_the_one_before_it(lab: BytesLab) -> None:
    await put(lab)
    names: list[str] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        async def offer() -> None:
            names.append((await op.transfer.offer("out/report.pdf")).name)
            if len(names) < 2:
                raise ConnectionError

        await op.step("offer", offer, retry=StepRetry(2, initial_delay=0))
        return PlayResult()

    ended = await lab.end((await lab.begin("Offer")).operation.name)
    assert (names[0], [grant.name for grant in ended.downloads]) == (names[1], names[:1])


async def test_another_try_of_a_step_waits_for_the_offer_that_a_failed_one_has_left_under_way(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(lab)
    slow = Slow(lab, monkeypatch)
    names: list[str] = []

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        left: list[asyncio.Task[Offer]] = []

        async def offer() -> None:
            if not left:
                left.append(asyncio.ensure_future(op.transfer.offer("out/report.pdf")))
                await slow.asked.wait()
                raise ConnectionError
            slow.go.set()
            names.append((await op.transfer.offer("out/report.pdf")).name)

        await op.step("offer", offer, retry=StepRetry(2, initial_delay=0))
        names.append((await left[0]).name)
        return PlayResult()

    ended = await lab.end((await lab.begin("Offer")).operation.name)
    assert ended.state == State.STATE_COMPLETED
    (grant,) = ended.downloads
    assert names == [grant.name, grant.name]


async def test_another_try_of_a_step_does_not_wait_for_the_store_that_held_the_one_before_it_up(
    lab: BytesLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(lab)
    slow = Slow(lab, monkeypatch)

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        async def offer() -> str:
            return str((await op.transfer.offer("out/report.pdf")).name)

        name = await op.step("offer", offer, retry=StepRetry(2, initial_delay=0), timeout=5)
        assert not slow.go.is_set()
        return PlayResult(text=name)

    operation = (await lab.begin("Offer")).operation
    await slow.asked.wait()
    lab.clock.advance(5)
    ended = await lab.end(operation.name)
    (grant,) = ended.downloads
    assert result_of(ended).text == grant.name


async def test_a_re_run_that_offers_on_other_terms_is_told(lab: BytesLab) -> None:
    await put(lab)
    crash = Crash(lab)

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.offer("out/report.pdf", max_uses=op.attempt)
        await crash.here(op)
        return PlayResult()

    operation = (await lab.begin("Offer")).operation
    await crash.happen()
    ended = await lab.end(operation.name)
    assert reason_of_end(ended) == "NON_DETERMINISTIC"
    assert len(ended.downloads) == 1


async def test_an_object_that_is_not_there_can_be_waited_for_under_the_same_name(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        with pytest.raises(TransferError) as caught:
            await op.transfer.offer("out/report.pdf")
        assert (caught.value.reason, caught.value.code, caught.value.final) == (
            "OBJECT_NOT_FOUND", Code.NOT_FOUND, False,
        )  # fmt: skip
        assert "report" not in str(caught.value), "callers would see the key of a store"
        await put(lab)
        offer = await op.transfer.offer("out/report.pdf")
        with pytest.raises(
            DuplicateNameError, match=r"offer 'out/report\.pdf' is used at .* and again at .*test_offers"
        ):
            await op.transfer.offer("out/report.pdf")
        return PlayResult(text=offer.name)

    operation = (await lab.begin("Offer")).operation
    assert result_of(await lab.end(operation.name)).text == f"downloads/{operation.uid}.1"


async def test_parallel_offers_of_one_name_are_refused_with_both_places(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await put(lab)
        one = op.transfer.offer("out/report.pdf")
        two = op.transfer.offer("out/report.pdf")
        error: Any
        _, error = await asyncio.gather(one, two, return_exceptions=True)
        assert isinstance(error, DuplicateNameError)
        places = [part for part in str(error).split() if "test_offers.py:" in part]
        assert len(set(places)) == 2
        return PlayResult()

    operation = (await lab.begin("Offer")).operation
    assert (await lab.end(operation.name)).state == State.STATE_COMPLETED


async def test_an_object_that_is_not_there_fails_the_operation_with_that(lab: BytesLab) -> None:
    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        await op.transfer.offer("nothing")
        return PlayResult()

    ended = await lab.end((await lab.begin("Offer")).operation.name)
    assert (ended.error.code, reason_of_end(ended)) == (Code.NOT_FOUND, "OBJECT_NOT_FOUND")
    assert not ended.downloads


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a key that escapes": ({"key": "../x"}, "must not hold the segment"),
    "no time": ({"expires_in": 0}, "cannot offer 'out/report.pdf' for 0 seconds"),
    "less than no time": ({"expires_in": timedelta(seconds=-1)}, "cannot offer 'out/report.pdf' for -1.0 seconds"),
    "more time than can be shown": ({"expires_in": timedelta.max}, "seconds: more than 0, at most 1,000,000,000"),
    "time without end": ({"expires_in": float("inf")}, "cannot offer 'out/report.pdf' for inf seconds"),
    "what is no number": ({"expires_in": float("nan")}, "cannot offer 'out/report.pdf' for nan seconds"),
    "fewer than no uses": ({"max_uses": -1}, "cannot offer -1 uses: the contract of .*/Offer allows any number"),
    "more uses than can be said": ({"max_uses": 1 << 31}, "for 2147483648 uses: a number up to 2,147,483,647"),
    "uses that are no number": ({"max_uses": "3"}, "for '3' uses: a number up to"),
    "a store that there is not": ({"store": "exprots"}, "the server has no store 'exprots', only exports, uploads"),
    "a file name with a slash": ({"filename": "../../etc/passwd"}, "is no file name: at most 255 characters"),
    "a folder for a file name": ({"filename": ".."}, "'..' is no file name"),
    "a file name that is too long": ({"filename": "n" * 256}, "is no file name: at most 255 characters"),
    "a content type in two lines": ({"content_type": "text/plain\r\nx: y"}, "must have at most 255 printable ASCII"),
    "a URL with uses": ({"url": True, "max_uses": 1}, "cannot count the uses of a URL"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_terms_that_mean_nothing_are_refused(lab: BytesLab, case: str) -> None:
    """In a handler, and by a controller."""
    await put(lab)
    terms, problem = WRONG[case]
    arguments = {"key": "out/report.pdf", **terms}
    go = asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        with pytest.raises(ValueError, match=problem):
            await op.transfer.offer(**arguments)
        await go.wait()
        return PlayResult(text="refused")

    operation = (await lab.begin("Offer")).operation
    control = await lab.server.operations.control(operation.name)
    with pytest.raises(ValueError, match=problem):
        await control.offer(**arguments)
    go.set()
    ended = await lab.end(operation.name)
    assert result_of(ended).text == "refused"
    assert not ended.downloads


class Signing(LocalStore):
    """A local store with URLs, as remote ones have them."""

    url = "https://files.example/{key}?for={expires_in:g}"

    async def presign(self, key: str, expires_in: float) -> str:
        return self.url.format(key=key, expires_in=expires_in)


async def test_a_url_is_the_stores_own(tmp_path: Any) -> None:
    lab = BytesLab(tmp_path / "data", stores={"uploads": LocalStore(), "exports": Signing()})
    await lab.start()
    try:
        await put(lab)
        await put(lab, store="uploads")

        @lab.plays
        async def handler(_: Any, op: Any) -> PlayResult:
            offer = await op.transfer.offer("out/report.pdf", url=True, expires_in=90)
            with pytest.raises(TransferError) as caught:
                await op.transfer.offer("out/report.pdf", store="uploads", url=True, name="local")
            assert caught.value.reason == "NOT_SUPPORTED"
            return PlayResult(text=offer.url)

        ended = await lab.end((await lab.begin("Offer")).operation.name)
        assert result_of(ended).text == "https://files.example/out/report.pdf?for=90"
        assert [grant.url for grant in ended.downloads] == [result_of(ended).text]
    finally:
        await lab.stop()


async def test_a_url_that_no_message_has_room_for_is_no_offer(tmp_path: Any) -> None:
    """Of a store that the service has written itself."""
    store = Signing()
    lab = BytesLab(tmp_path / "data", stores={"uploads": LocalStore(), "exports": store})
    await lab.start()
    try:
        await put(lab)

        @lab.plays
        async def handler(_: Any, op: Any) -> PlayResult:
            for url in ("", "u" * (MAX_URL + 1), "https://files.example/\n", "https://files.example/\xe4"):
                store.url = url
                with pytest.raises(ValueError, match=r"the store 'exports' gave .* a URL has 1 to 8192"):
                    await op.transfer.offer("out/report.pdf", url=True)
            for number in range(64):
                store.url = "u" * MAX_URL
                await op.transfer.offer("out/report.pdf", url=True, name=f"{number}")
            return PlayResult(text="t" * 999_000)

        ended = await lab.end((await lab.begin("Offer")).operation.name)
        assert [len(grant.url) for grant in ended.downloads] == [MAX_URL] * 64
    finally:
        await lab.stop()


async def revoked(lab: BytesLab, grant: DownloadGrant) -> bool:
    _, reason, _ = await refused(lab.transfers.Download(tpb.DownloadRequest(name=grant.name)).read())
    return reason == "DOWNLOAD_REVOKED"


async def test_a_handler_takes_an_offer_back(lab: BytesLab) -> None:
    await put(lab)

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        first = await op.transfer.offer("out/report.pdf")
        await op.transfer.offer("out/report.pdf", name="second")
        for _again in range(2):
            await op.transfer.revoke(first.name)
        for other in (first.name[:-1] + "7", "downloads/x.1", f"operations/{op.uid}"):
            with pytest.raises(ValueError, match=f"is no download that {op.name} offers"):
                await op.transfer.revoke(other)
        return PlayResult()

    first, second = (await lab.end((await lab.begin("Offer")).operation.name)).downloads
    assert [first.revoked, second.revoked] == [True, False]
    assert await revoked(lab, first)
    assert (await fetch(lab, second.name)).data == DATA


async def test_a_controller_offers_and_takes_back(lab: BytesLab) -> None:
    await put(lab)
    control = await lab.server.operations.accept(bytes_longshore.BytesService.offer, BytesRequest(key="unused"))
    await control.started()
    one = await control.offer("out/report.pdf", filename="one.pdf", max_uses=1)
    two = await control.offer("out/report.pdf", expires_in=90)
    assert (one.name, two.name) == (f"downloads/{control.uid}.1", f"downloads/{control.uid}.2")
    assert (one.filename, one.max_uses, two.expires) == ("one.pdf", 1, seconds(lab, 90))
    await lab.restart()
    control = await lab.server.operations.control(control.name, bytes_longshore.BytesService.offer)
    await control.revoke(one.name)
    await control.complete(PlayResult())
    first, second = (await lab.get(control.name)).downloads
    assert [first.revoked, second.revoked] == [True, False]
    assert (await fetch(lab, second.name)).data == DATA
    with pytest.raises(ServiceError) as caught:
        await control.offer("out/report.pdf")
    assert caught.value.reason is Reason.OPERATION_ENDED
    await control.revoke(two.name)
    assert await revoked(lab, second)
    with pytest.raises(ValueError, match="is no download that"):
        await control.revoke("downloads/other.1")


async def test_a_controller_of_an_operation_without_bytes_is_told(lab: BytesLab) -> None:
    control = await lab.server.operations.control((await Lab.begin(lab)).operation.name)
    with pytest.raises(RuntimeError, match=r"the contract of lab\.v1\.LabService/Play declares no transfer"):
        await control.offer("out/report.pdf")


async def test_an_operation_offers_no_more_than_its_snapshot_can_hold(lab: BytesLab) -> None:
    await put(lab)

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        for number in range(64):
            await op.transfer.offer("out/report.pdf", name=str(number))
        with pytest.raises(ServiceError) as caught:
            await op.transfer.offer("out/report.pdf", name="one more")
        return PlayResult(text=caught.value.reason.name)

    ended = await lab.end((await lab.begin("Offer")).operation.name)
    assert (result_of(ended).text, len(ended.downloads)) == ("TOO_MANY_TRANSFERS", 64)


async def test_an_operation_that_is_being_cancelled_offers_nothing(lab: BytesLab) -> None:
    await put(lab)
    begun = asyncio.Event()

    @lab.plays
    async def handler(_: Any, op: Any) -> PlayResult:
        begun.set()
        await op.cancelled.wait()
        await op.transfer.offer("out/report.pdf")
        return PlayResult()

    operation = (await lab.begin("Offer")).operation
    await begun.wait()
    await lab.operations.Cancel(pb.CancelRequest(name=operation.name))
    ended = await lab.end(operation.name)
    assert (ended.state, len(ended.downloads)) == (State.STATE_CANCELLED, 0)
