"""The sinks that come with the server, and how they are declared."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from longshore_server import (
    Config,
    ConfigError,
    EventsRefusedError,
    Job,
    LifecycleEvent,
    RecurringContext,
)
from longshore_server.config import KINDS, load
from longshore_server.store.mutations import Mutation
from longshore_server.store.mutations.outbox import Delivered
from longshore_server.telemetry.http_sink import HttpSink
from longshore_server.telemetry.sink_settings import SinkSettings
from longshore_server.testing import Harness
from tests.conftest import LabClock
from tests.server.outbox.conftest import Order, Place


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
        self.refuses = ""
        """The type of events that it does not take."""
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.redirected = False
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.requests.append((dict(self.headers), json.loads(body)))
                bad = any(event["type"] == endpoint.refuses for event in endpoint.requests[-1][1]["events"])
                self.send_response(422 if bad else endpoint.codes.pop(0) if endpoint.codes else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                endpoint.redirected = True
                self.send_response(200)
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
        assert not endpoint.redirected
        first, again, last = (body["events"] for _, body in endpoint.requests[:3])
        assert [event["eventId"] for event in first] == [event["eventId"] for event in again][: len(first)]
        assert [event["eventId"] for event in last][: len(first)] == [event["eventId"] for event in first]

    @pytest.mark.parametrize(("code", "refuses"), [(400, True), (409, True), (413, True), (422, True), (401, False),
                                                   (404, False), (408, False), (429, False), (500, False)])  # fmt: skip
    async def test_what_it_answers_says_whether_it_may_ever_take_them(self, code: int, refuses: bool) -> None:
        event = LifecycleEvent("1", "job.started", datetime(2026, 1, 1, tzinfo=UTC), "jobs/1", "job", "work")
        with Endpoint() as endpoint:
            endpoint.codes = [code]
            with pytest.raises(EventsRefusedError if refuses else OSError, match=f"the endpoint answered {code} "):
                await HttpSink(endpoint.url).deliver([event])

    async def test_one_bad_event_holds_up_none_that_follow(self, tmp_path: Path) -> None:
        with Endpoint() as endpoint:
            endpoint.refuses = "job.started"
            place = Place(tmp_path / "data")
            place.harness.configure(sinks=(SinkSettings("in", endpoint.url),))
            orders = place.server.task("order", Order)
            await place.harness.start()
            await orders.send("a", {})
            while place.rows("SELECT * FROM outbox"):
                await _taken(place)
            (sink,) = place.harness.running.deliveries.all
            await place.harness.stop()
        assert (sink.refused, sink.delivered, sink.failures) == (1, 1, 0)
        _, last = endpoint.requests[-1]
        assert [event["type"] for event in last["events"]] == ["task.scheduled"]


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
