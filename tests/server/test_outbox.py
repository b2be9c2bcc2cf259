"""The outbox: lifecycle events of jobs and instances, from the commit that makes them true to the sinks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from longshore_server import (
    Config,
    ConfigError,
    EventSink,
    Job,
    JobRetry,
    LifecycleEvent,
    RecurringContext,
    Server,
    StepRetry,
    Task,
    TaskContext,
)
from longshore_server.config import KINDS, load
from longshore_server.store.mutations import Mutation
from longshore_server.store.mutations.outbox import Delivered
from longshore_server.telemetry.sink_settings import SinkSettings
from longshore_server.testing import Harness
from tests.conftest import LabClock


class Ear(EventSink):
    """Keeps what it gets, unless a test has it fail or hang."""

    def __init__(self, *, payloads: bool = False, batch_size: int = 100) -> None:
        self.payloads, self.batch_size = payloads, batch_size
        self.heard: list[LifecycleEvent] = []
        self.problem: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls = 0

    async def deliver(self, events: Sequence[LifecycleEvent]) -> None:
        self.calls += 1
        await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        self.heard.extend(events)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.heard]

    def one(self, type: str) -> dict[str, Any]:
        """The data of the only event of a type."""
        (found,) = [event for event in self.heard if event.type == type]
        return dict(found.data)


class Place:
    """A server with sinks, on which a test declares what it needs, and the file below."""

    def __init__(self, data: Path, **sinks: EventSink) -> None:
        self.data = data
        self.server = Server(sinks=sinks)
        self.harness = Harness(self.server, data)

    def rows(self, sql: str) -> list[Any]:
        path = f"file:{self.data / 'longshore.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True)) as database:
            return database.execute(sql).fetchall()

    @property
    def settle(self) -> Callable[[], Any]:
        return self.harness.settle


@pytest.fixture
async def make_place(tmp_path: Path) -> AsyncIterator[Callable[..., Place]]:
    """Makes servers with sinks; stops them after the test."""
    made: list[Place] = []

    def make(**sinks: EventSink) -> Place:
        made.append(Place(tmp_path / f"data{len(made)}", **sinks))
        return made[-1]

    yield make
    for place in made:
        await place.harness.stop()


class Order(Task[dict, dict]):  # type: ignore[type-arg]
    """Sets a timer with each of its handlers."""

    async def on_event(self, event: dict[str, Any], ctx: TaskContext[Any]) -> None:
        ctx.state = event
        ctx.schedule(60, name="chase")
        if event.get("bad"):
            raise ValueError("no such order")

    async def execute(self, ctx: TaskContext[Any]) -> None:
        if ctx.state and ctx.state.get("again"):
            ctx.state = {}
            ctx.schedule(5)

    async def on_idle(self, ctx: TaskContext[Any]) -> None:
        if ctx.state == {}:
            ctx.state = {"done": True}
            ctx.schedule(7, name="idle")

    async def on_error(self, error: BaseException, ctx: TaskContext[Any]) -> None:
        ctx.schedule(9, name="later")


class TestTheEightEvents:
    """Seed 3's, each from what makes it true."""

    async def test_a_recurring_tells_of_its_start_its_runs_and_its_end(self, make_place) -> None:
        ear = Ear()
        place = make_place(ear=ear)

        @place.server.recurring("refresh", every="30m", state=int)
        async def refresh(ctx: RecurringContext[int]) -> None:
            ctx.state += 1

        await place.harness.start()
        await refresh.start("a", 0)
        await refresh.terminate("a", "user logged out")
        await place.settle()
        assert ear.types == ["job.started", "job.executed", "job.terminated"]
        started, executed, ended = ear.heard
        assert (started.kind, started.definition) == ("recurring", "refresh")
        assert started.subject == executed.subject == "recurrings/refresh/instances/a"
        assert executed.data == {"runCount": 1, "attempt": 1, "durationMs": 0.0}
        assert ended.data == {"reason": "user logged out", "runCount": 1}
        assert all(event.id[14] == "7" for event in ear.heard)
        assert sorted(event.id for event in ear.heard) == [event.id for event in ear.heard]

    async def test_a_handler_that_ends_its_instance_tells_of_it(self, make_place) -> None:
        """Upstream's `ctx.terminate` emits nothing."""
        ear = Ear()
        place = make_place(ear=ear)

        @place.server.recurring("once", every=60, state=int)
        async def once(ctx: RecurringContext[int]) -> None:
            ctx.terminate("done")

        await place.harness.start()
        await once.start("a", 0)
        await place.settle()
        assert ear.types == ["job.started", "job.executed", "job.terminated"]
        assert ear.one("job.terminated")["reason"] == "done"

    async def test_a_failure_says_the_real_error_and_whether_it_is_tried_again(self, make_place) -> None:
        """Upstream says "Retry scheduled for attempt 2" in place of the error."""
        ear = Ear()
        place = make_place(ear=ear)
        retry = StepRetry(max_attempts=2, initial_delay=10)

        @place.server.recurring("refresh", every=60, state=int, retry=retry)
        async def refresh(ctx: RecurringContext[int]) -> None:
            raise ConnectionError("the identity provider is down")

        await place.harness.start()
        await refresh.start("a", 0)
        await place.harness.advance(10)
        first, second = [event.data for event in ear.heard if event.type == "job.failed"]
        assert (first["willRetry"], first["attempt"], first["runCount"]) == (True, 1, 1)
        assert (second["willRetry"], second["attempt"], second["runCount"]) == (False, 2, 1)
        for failed in (first, second):
            assert failed["error"]["reason"] == "HANDLER_ERROR"
            assert failed["error"]["problem"] == "ConnectionError: the identity provider is down"
        spent = ear.one("job.retryExhausted")
        assert (spent["attempts"], spent["reason"]) == (2, "max_attempts")
        assert spent["error"] == second["error"]

    async def test_exhaustion_says_its_true_reason(self, make_place) -> None:
        """Upstream says max_attempts, whatever it was."""
        ear = Ear()
        place = make_place(ear=ear)
        retry = StepRetry(max_attempts=9, initial_delay=10, max_duration=15)

        @place.server.recurring("refresh", every=60, state=int, retry=retry)
        async def refresh(ctx: RecurringContext[int]) -> None:
            raise ConnectionError

        await place.harness.start()
        await refresh.start("a", 0)
        await place.harness.advance(60)
        assert ear.one("job.retryExhausted")["reason"] == "max_duration"

    async def test_a_debounce_tells_of_each_batch(self, make_place) -> None:
        ear = Ear()
        place = make_place(ear=ear)

        @place.server.debounce("webhook", event=int, flush_after=5, max_events=3)
        async def webhook(ctx: Any) -> None:
            pass

        await place.harness.start()
        await webhook.add("a", 1)
        await webhook.add("a", 2)
        await place.harness.advance(5)
        for number in range(3):
            await webhook.add("a", number)
        await webhook.add("a", 9)
        await webhook.flush("a")
        await place.settle()
        assert ear.types.count("job.started") == 1
        assert ear.types.count("debounce.started") == ear.types.count("job.executed") == 3
        flushed = [event.data for event in ear.heard if event.type == "debounce.flushed"]
        assert [(data["eventCount"], data["reason"]) for data in flushed] == [
            (2, "flush_after"), (3, "max_events"), (1, "manual"),
        ]  # fmt: skip
        begun = next(event for event in ear.heard if event.type == "debounce.started")
        assert begun.data["flushAt"] > begun.time.isoformat()

    async def test_a_task_tells_which_handler_has_set_a_timer(self, make_place) -> None:
        """Upstream never says `error`, and emits neither start nor end of a task."""
        ear = Ear()
        place = make_place(ear=ear)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {"again": True})
        await orders.send("b", {"bad": True})
        await place.harness.advance(70)
        await orders.terminate("a")
        await place.settle()
        timers = [
            (event.subject[-1], event.data["timer"], event.data["trigger"])
            for event in ear.heard
            if event.type == "task.scheduled"
        ]
        assert timers[:3] == [("a", "chase", "event"), ("b", "later", "error"), ("a", "", "execute")]
        assert ("a", "idle", "idle") in timers
        assert ear.types.count("job.started") == 2
        assert ear.one("job.failed")["error"]["problem"] == "ValueError: no such order"
        assert ear.one("job.terminated") == {"reason": "", "runCount": 2}

    async def test_jobs_of_queues_tell_the_same(self, make_place) -> None:
        ear = Ear(payloads=True)
        place = make_place(ear=ear)

        @place.server.job("reserve", retry=JobRetry(max_attempts=2, initial_delay=10))
        async def reserve(payload: int, job: Job[int]) -> int:
            if payload < 0:
                raise ValueError("less than nothing")
            return payload + 1

        await place.harness.start()
        await reserve.create(1)
        await place.settle()
        assert [(event.type, event.kind, event.definition) for event in ear.heard] == [
            ("job.started", "job", "reserve"), ("job.executed", "job", "reserve"),
        ]  # fmt: skip
        assert (ear.one("job.started")["input"], ear.one("job.executed")["result"]) == (1, 2)
        ear.heard.clear()
        await reserve.create(-1)
        cancelled = await reserve.create(5, delay=100)
        await cancelled.cancel("not needed")
        await place.harness.advance(10)
        failed = [event.data for event in ear.heard if event.type == "job.failed"]
        assert [data["willRetry"] for data in failed] == [True, False]
        assert failed[0]["error"]["problem"] == "ValueError: less than nothing"
        assert ear.one("job.retryExhausted")["reason"] == "max_attempts"
        assert ear.one("job.terminated")["reason"] == "not needed"


class TestValues:
    async def test_inputs_and_states_go_only_where_they_are_asked_for(self, make_place) -> None:
        """Upstream sends the whole state with every event."""
        plain, full = Ear(), Ear(payloads=True)
        place = make_place(plain=plain, full=full)

        @place.server.recurring("refresh", every=60, state=dict)
        async def refresh(ctx: RecurringContext[dict[str, str]]) -> None:
            ctx.state["token"] = "new"

        await place.harness.start()
        await refresh.start("a", {"token": "old"})
        await place.settle()
        assert full.one("job.started")["input"] == {"token": "old"}
        assert full.one("job.executed")["state"] == {"token": "new"}
        assert [event.id for event in plain.heard] == [event.id for event in full.heard]
        assert "old" not in str(plain.heard)

    async def test_nothing_of_them_is_stored_for_nobody(self, make_place) -> None:
        ear = Ear()
        ear.gate.clear()
        place = make_place(ear=ear)

        @place.server.recurring("refresh", every=60, state=str)
        async def refresh(ctx: RecurringContext[str]) -> None: ...

        await place.harness.start()
        await refresh.start("a", "a secret")
        await place.settle()
        assert len(rows := place.rows("SELECT * FROM outbox")) == 2
        assert "secret" not in str(rows)


class TestDelivery:
    async def test_a_server_without_sinks_writes_nothing(self, make_place) -> None:
        place = make_place()
        place.server.task("order", Order)
        await place.harness.start()
        await place.server.definitions[next(iter(place.server.definitions))].send("a", {})
        await place.settle()
        assert place.rows("SELECT * FROM sqlite_sequence WHERE name = 'outbox'") == []

    async def test_what_all_have_got_is_deleted(self, make_place) -> None:
        one, two = Ear(), Ear(batch_size=1)
        two.gate.clear()
        place = make_place(one=one, two=two)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        assert one.types == ["job.started", "task.scheduled"]
        assert len(place.rows("SELECT * FROM outbox")) == 2
        two.gate.set()
        await place.settle()
        assert two.types == one.types
        assert two.calls == 2
        assert place.rows("SELECT * FROM outbox") == []

    async def test_one_that_is_down_is_tried_again_and_holds_up_nobody(self, make_place) -> None:
        down, up = Ear(), Ear()
        down.problem = ConnectionError("refused")
        place = make_place(down=down, up=up)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        assert len(up.heard) == 2
        assert down.calls == 1
        for pause, calls in ((1, 2), (2, 3), (4, 4)):
            await place.harness.advance(pause - 0.001)
            assert down.calls == calls - 1
            await place.harness.advance(0.001)
            assert down.calls == calls
        down.problem = None
        await place.harness.advance(8)
        assert [event.id for event in down.heard] == [event.id for event in up.heard]

    async def test_one_that_hangs_is_cut_off_and_holds_up_nobody(self, make_place) -> None:
        hanging, up = Ear(), Ear()
        hanging.gate.clear()
        place = make_place(hanging=hanging, up=up)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        assert len(up.heard) == 2
        await place.harness.advance(31)
        assert hanging.calls == 2
        assert place.harness.running.deliveries.all[0].failures == 1
        hanging.gate.set()
        await place.settle()
        assert len(hanging.heard) == 2

    async def test_what_is_left_when_a_server_stops_comes_from_the_next(self, make_place) -> None:
        ear = Ear()
        ear.problem = ConnectionError("refused")
        place = make_place(ear=ear)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        await place.harness.stop()
        ear.problem = None
        await place.harness.start()
        await place.settle()
        assert ear.types == ["job.started", "task.scheduled"]

    async def test_a_new_sink_gets_what_happens_from_then_on_and_one_that_is_gone_keeps_nothing(
        self, make_place
    ) -> None:
        old, new = Ear(), Ear()
        old.problem = ConnectionError("refused")
        place = make_place(old=old)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        await place.harness.stop()
        place.server.sinks = {"new": new}
        await place.harness.start()
        assert place.rows("SELECT * FROM outbox") == []
        await orders.send("b", {})
        await place.settle()
        assert {event.subject for event in new.heard} == {"tasks/order/instances/b"}


class TestBounds:
    async def test_who_is_too_far_behind_loses_the_oldest_and_that_is_counted(self, tmp_path: Path) -> None:
        slow, fast = Ear(), Ear()
        slow.problem = ConnectionError("refused")
        place = Place(tmp_path / "data", slow=slow, fast=fast)
        place.harness.configure(max_outbox=100, metrics="127.0.0.1:0")

        @place.server.job("work")
        async def work(payload: int, job: Job[None]) -> None: ...

        await place.harness.start()
        for number in range(100):
            await work.create(number)
            await place.settle()
        slow.problem = None
        await place.harness.advance(60)
        metrics = place.harness.running.metrics
        assert metrics is not None
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics.address}/").read().decode())
        await place.harness.stop()
        assert len(fast.heard) == 200
        lost = 200 - len(slow.heard)
        assert 88 <= lost <= 100
        assert [event.id for event in slow.heard] == [event.id for event in fast.heard[lost:]]
        assert f'longshore_events_dropped_total{{sink="slow"}} {lost}.0' in text
        assert 'longshore_events_dropped_total{sink="fast"} 0.0' in text
        assert 'longshore_events_delivered_total{sink="fast"} 200.0' in text
        assert 'longshore_events_waiting{sink="slow"} 0.0' in text


class TestLog:
    async def test_the_level_of_a_definition_says_what_is_written(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Failures alone where nothing is said."""
        place = Place(tmp_path / "data")
        place.harness.configure(sinks=(SinkSettings("log", "log:"),))

        @place.server.recurring("silent", every=60, state=int, log_level="off")
        async def silent(ctx: RecurringContext[int]) -> None:
            raise ValueError

        @place.server.recurring("default", every=60, state=int)
        async def default(ctx: RecurringContext[int]) -> None:
            raise ValueError("a real error")

        @place.server.job("talkative", log_level="info")
        async def talkative(payload: int, job: Job[None]) -> None: ...

        with caplog.at_level(logging.DEBUG, "longshore.events"):
            await place.harness.start()
            await silent.start("a", 0)
            await default.start("a", 0)
            await talkative.create(1)
            await place.settle()
            await place.harness.stop()
        lines = [record for record in caplog.records if record.name == "longshore.events"]
        assert [(line.levelname, line.getMessage().split("/")[0]) for line in lines] == [
            ("ERROR", "job.failed recurrings"), ("INFO", "job.started jobs"), ("INFO", "job.executed jobs"),
        ]  # fmt: skip
        assert lines[0].data["error"]["problem"] == "ValueError: a real error"  # type: ignore[attr-defined]


class Endpoint:
    """An HTTP server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.requests: list[tuple[dict[str, str], Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.requests.append((dict(self.headers), json.loads(body)))
                self.send_response(endpoint.codes.pop(0) if endpoint.codes else 204)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ingest"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


async def _taken(place: Place) -> None:
    """Return once a sink has taken a batch."""
    taken = asyncio.Event()

    def look(change: Mutation[Any]) -> None:
        if isinstance(change, Delivered):
            taken.set()

    place.harness.running.engine.store.writer.on_write = look
    if place.rows("SELECT * FROM outbox"):
        await taken.wait()
    await place.settle()


class TestHttp:
    async def test_batches_are_posted_with_headers_environment_and_service_key(self, tmp_path: Path) -> None:
        with Endpoint() as endpoint:
            place = Place(tmp_path / "data")
            settings = SinkSettings(
                "ingest", endpoint.url, headers=("Authorization: Bearer t",), env="production", service_key="my-jobs"
            )
            place.harness.configure(sinks=(settings,))
            orders = place.server.task("order", Order)
            await place.harness.start()
            await orders.send("a", {})
            await _taken(place)
            while place.rows("SELECT * FROM outbox"):
                await _taken(place)
            await place.harness.stop()
        headers, _ = endpoint.requests[0]
        assert (headers["Authorization"], headers["Content-Type"]) == ("Bearer t", "application/json")
        events = [event for _, body in endpoint.requests for event in body["events"]]
        assert [event["type"] for event in events] == ["job.started", "task.scheduled"]
        assert {(event["env"], event["serviceKey"], event["source"]) for event in events} == {
            ("production", "my-jobs", "longshore")
        }
        assert events[1]["subject"] == "tasks/order/instances/a"
        assert events[1]["trigger"] == "event"

    @pytest.mark.parametrize("code", [503, 302])
    async def test_what_an_endpoint_refuses_is_sent_again_by_the_clock(self, tmp_path: Path, code: int) -> None:
        clock = LabClock()
        with Endpoint() as endpoint:
            endpoint.codes = [code, code]
            place = Place(tmp_path / "data")
            place.harness = Harness(place.server, place.data, clock=clock, sinks=(SinkSettings("in", endpoint.url),))
            orders = place.server.task("order", Order)
            await place.harness.start()
            sent = asyncio.ensure_future(orders.send("a", {}))
            for pause in (1, 2):
                await clock.armed(pause)
                clock.advance(pause)
            await _taken(place)
            await sent
            await place.harness.stop()
        first, again, last = (body["events"] for _, body in endpoint.requests[:3])
        assert [event["eventId"] for event in first] == [event["eventId"] for event in again][: len(first)]
        assert [event["eventId"] for event in last][: len(first)] == [event["eventId"] for event in first]


class TestOtel:
    async def test_events_are_records_of_the_programs_own_provider(self, make_place) -> None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

        from longshore_server.telemetry.otel_sink import OtelSink

        exporter, provider = InMemoryLogRecordExporter(), LoggerProvider()
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        sink = OtelSink(provider)
        heard = asyncio.Event()
        deliver = sink.deliver

        async def told(events: Sequence[LifecycleEvent]) -> None:
            await deliver(events)
            heard.set()

        sink.deliver = told  # type: ignore[method-assign]
        place = make_place(otel=sink)

        @place.server.recurring("refresh", every=60, state=int)
        async def refresh(ctx: RecurringContext[int]) -> None:
            raise ValueError("a real error")

        await place.harness.start()
        await refresh.start("a", 0)
        while len(exporter.get_finished_logs()) < 2:
            heard.clear()
            await heard.wait()
        records: list[Any] = [found.log_record for found in exporter.get_finished_logs()]
        started, failed = records
        assert (started.event_name, failed.event_name) == ("job.started", "job.failed")
        assert (started.severity_number.name, failed.severity_number.name) == ("INFO", "ERROR")
        assert failed.attributes["longshore.subject"] == "recurrings/refresh/instances/a"
        assert failed.body["error"]["problem"] == "ValueError: a real error"
        provider.shutdown()

    async def test_without_one_the_events_wait(self, make_place) -> None:
        from longshore_server.telemetry.otel_sink import OtelSink

        place = make_place(otel=OtelSink())
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        assert place.harness.running.deliveries.all[0].failures == 1
        assert len(place.rows("SELECT * FROM outbox")) == 2


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"url": "ftp://x"}, "url: 'ftp://x' is neither log: nor otlp: nor the http(s) URL of an endpoint"),
            ({"url": "https://"}, "url: 'https://' names no host, or holds what a URL cannot"),
            ({"url": "log:", "env": "x"}, "env: it means nothing without the URL of an HTTP endpoint"),
            ({"url": "http://x", "batch_size": 0}, "batch_size: 0 is not between 1 and 10,000"),
            ({"url": "http://x", "headers": ["secret"]}, "headers: one of them is not of the form NAME: VALUE"),
            ({"url": "http://x", "headers": ["A: b\r\nC: d"]}, "headers: one of them is not of the form NAME: VALUE"),
            ({"url": "http://x", "retries": 3}, "there is no option 'retries'"),
        ],
    )
    def test_a_sink_that_means_nothing_is_refused_by_name(self, tmp_path: Path, options: Any, problem: str) -> None:
        with pytest.raises(ConfigError) as refused:
            Config(sinks=KINDS["tuple[SinkSettings, ...]"].make({"audit": options}))
        assert str(refused.value).startswith(f"sinks: audit: {problem}")

    def test_options_variables_and_files_say_them_alike(self, tmp_path: Path) -> None:
        file = tmp_path / "longshore.toml"
        file.write_text(
            '[sinks.audit]\nurl = "https://a.example/in"\nheaders = ["Authorization: t"]\npayloads = true\n'
        )
        found = load({"sinks": ("log=log:",)}, {"LONGSHORE_SINKS": "otel=otlp:"}, file)
        assert [(sink.name, sink.url, sink.payloads) for sink in found.sinks] == [
            ("audit", "https://a.example/in", True), ("otel", "otlp:", False), ("log", "log:", False),
        ]  # fmt: skip


class TestCrashes:
    async def test_no_event_is_lost_and_none_comes_before_its_commit(self, make_place) -> None:
        """At every commit boundary of one instance's life: what was told is true, and all of it is told."""
        boundary = 0
        while True:
            boundary += 1
            ear = Ear()
            place = make_place(ear=ear)

            async def deliver(events: Sequence[LifecycleEvent], ear: Any = ear, place: Any = place) -> None:
                for event in events:
                    ((runs, status),) = place.rows("SELECT runs, status FROM instances")
                    assert runs >= event.data.get("runCount", 0) - (event.type == "job.failed")
                    assert status == 4 or event.type != "job.terminated"
                ear.heard.extend(events)

            ear.deliver = deliver  # type: ignore[method-assign]

            @place.server.recurring("refresh", every=60, state=int, retry=StepRetry(max_attempts=3, initial_delay=1))
            async def refresh(ctx: RecurringContext[int]) -> None:
                if ctx.run_count == 2 and ctx.attempt == 1:
                    raise ConnectionError
                if ctx.run_count == 3:
                    ctx.terminate("enough")

            await place.harness.start()
            crash = place.harness.crash_after(commits=boundary)
            asked = asyncio.ensure_future(refresh.start("a", 0, no_wait=True))
            await place.settle()
            if asked.cancel():
                # It died before it answered: whoever asks again finds what is durable.
                await refresh.start("a", 0, no_wait=True)
            await place.harness.advance(300)
            if not crash.happened:
                crash.cancel()
                break
            unique = {event.id: event for event in ear.heard}
            types = [event.type for event in unique.values()]
            assert types.count("job.started") == 1, boundary
            assert [e.data["runCount"] for e in unique.values() if e.type == "job.executed"] == [1, 2, 3], boundary
            assert types.count("job.terminated") == 1, boundary
            assert types[0] == "job.started", boundary
            assert types[-1] == "job.terminated", boundary
            await place.harness.stop()
        assert boundary > 10
