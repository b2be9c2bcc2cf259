"""Metrics for Prometheus, made when they are asked for from what the server counts anyway.

Labels take their values from the contracts, the states and the status codes: no caller can make up new ones.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from longshore_server.engine.engine import Engine
from longshore_server.histogram import Histogram
from longshore_server.job_lifecycle import ENDED, JobState, Stand
from longshore_server.jobs.host import Host
from longshore_server.lifecycle import State
from longshore_server.telemetry.delivery import Deliveries

Calls: TypeAlias = Mapping[str, Mapping[str, Histogram]]


class _Collector(Collector):
    """Reads plain numbers that other threads keep; it runs in the HTTP server's."""

    def __init__(self, engine: Engine, calls: Calls, deliveries: Deliveries) -> None:
        self._engine = engine
        self._calls = calls
        self._deliveries = deliveries

    def collect(self) -> Iterable[Metric]:
        engine = self._engine
        live = GaugeMetricFamily(
            "longshore_operations_live", "Operations that have not ended.", labels=["type", "state"]
        )
        counts = {
            (name, state): 0 for name in engine.types for state in (State.PENDING, State.RUNNING, State.CANCELLING)
        }
        for operation in list(engine.table.live.values()):
            key = (operation.record.type, operation.record.state)
            counts[key] = counts.get(key, 0) + 1
        for (name, state), count in counts.items():
            live.add_metric([name, state.name], count)
        yield live
        ended = CounterMetricFamily(
            "longshore_operations_ended", "Operations that have ended since the start.", labels=["type", "state"]
        )
        for (name, state), count in list(engine.ended.items()):
            ended.add_metric([name, state.name], count)
        yield ended
        attempts = GaugeMetricFamily("longshore_attempts_running", "Attempts under way.", labels=["type"])
        waiting = GaugeMetricFamily("longshore_operations_waiting", "Operations that wait for a slot.", labels=["type"])
        for name in engine.types:
            attempts.add_metric([name], engine.executor.running_of(name))
            waiting.add_metric([name], engine.executor.waiting_of(name))
        yield attempts
        yield waiting
        yield from _jobs(engine.jobs)
        yield GaugeMetricFamily("longshore_watches_open", "Open watches and waits.", value=engine.watches.count)
        transfers = engine.transfers
        yield GaugeMetricFamily("longshore_uploads_open", "Uploads that take bytes.", value=transfers.uploads.open)
        yield GaugeMetricFamily("longshore_transfers_open", "Calls that send bytes.", value=transfers.count)
        sent = CounterMetricFamily(
            "longshore_transfer_bytes", "Bytes of objects since the start.", labels=["direction", "store"]
        )
        for direction, bytes_of in (("upload", transfers.uploads.bytes), ("download", transfers.downloads.bytes)):
            for store in transfers.stores:
                sent.add_metric([direction, store], bytes_of[store])
        yield sent
        writer = engine.store.writer
        commits = HistogramMetricFamily(
            "longshore_store_commit_seconds", "How long each COMMIT took, the disk's sync included."
        )
        _add(commits, [], writer.commits)
        yield commits
        batches = HistogramMetricFamily("longshore_store_commit_changes", "How many changes each transaction had.")
        _add(batches, [], writer.batches)
        yield batches
        yield GaugeMetricFamily("longshore_store_backlog", "Changes that wait for their commit.", value=writer.backlog)
        calls = HistogramMetricFamily(
            "longshore_rpc_seconds",
            "How long each call took; CANCELLED: the caller left, or its deadline passed.",
            labels=["method", "code"],
        )
        for path, durations in self._calls.items():
            for code, histogram in list(durations.items()):
                _add(calls, [path.removeprefix("/"), code], histogram)
        yield calls
        if self._deliveries.all:
            yield from self._events()

    def _events(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily("longshore_events_waiting", "Events that a sink has not taken.", labels=["sink"])
        taken = CounterMetricFamily("longshore_events_delivered", "Events that a sink has taken.", labels=["sink"])
        failures = CounterMetricFamily("longshore_sink_failures", "Batches that a sink did not take.", labels=["sink"])
        dropped = CounterMetricFamily(
            "longshore_events_dropped", "Events that a sink never got: it was too far behind.", labels=["sink"]
        )
        refused = CounterMetricFamily(
            "longshore_events_refused", "Events that a sink will never take, and does not get.", labels=["sink"]
        )
        for sink in self._deliveries.all:
            waiting.add_metric([sink.name], sink.waiting)
            taken.add_metric([sink.name], sink.delivered)
            failures.add_metric([sink.name], sink.failures)
            dropped.add_metric([sink.name], sink.dropped)
            refused.add_metric([sink.name], sink.refused)
        yield from (waiting, taken, failures, dropped, refused)


def _jobs(host: Host) -> Iterable[Metric]:
    """Jobs and their queues; of a queue that the server does not have any more, its dead letters."""
    tally, lines = host.tally, list(host.scheduler.lines.items())
    live = GaugeMetricFamily("longshore_jobs_live", "Jobs that have not ended.", labels=["queue", "state"])
    queued = GaugeMetricFamily(
        "longshore_jobs_queued", "Jobs that wait: READY for a slot, BLOCKED for their key, DELAYED for their time.",
        labels=["queue", "stand"],
    )  # fmt: skip
    running = GaugeMetricFamily("longshore_job_slots_taken", "Slots for attempts that are taken.", labels=["queue"])
    slots = GaugeMetricFamily("longshore_job_slots", "Slots for attempts.", labels=["queue"])
    paused = GaugeMetricFamily("longshore_queue_paused", "1: none of its attempts may begin.", labels=["queue"])
    ended = CounterMetricFamily(
        "longshore_jobs_ended", "Jobs that have ended since the start.", labels=["queue", "state"]
    )
    for name, line in lines:
        stands = {stand: tally.standing(name, JobState.QUEUED, stand) for stand in Stand if stand is not Stand.NONE}
        for stand, count in stands.items():
            queued.add_metric([name, stand.name], count)
        live.add_metric([name, JobState.QUEUED.name], sum(stands.values()))
        for state in (JobState.ACTIVE, JobState.CANCELLING, JobState.STALE):
            live.add_metric([name, state.name], tally.standing(name, state))
        for state in sorted(ENDED - {JobState.DISMISSED}):
            ended.add_metric([name, state.name], tally.ended(name, state))
        running.add_metric([name], line.slots.held)
        slots.add_metric([name], line.definition.concurrency)
        paused.add_metric([name], int(line.paused))
    dead = GaugeMetricFamily("longshore_jobs_dead", "Dead letters that nobody has dismissed.", labels=["queue"])
    for name in {*tally.queues, *(name for name, _ in lines)}:
        dead.add_metric([name], tally.standing(name, JobState.DEAD))
    yield from (live, queued, dead, ended, running, slots, paused)


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    """One series; Prometheus wants its buckets cumulative."""
    bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)


class MetricsServer:
    """An HTTP server of its own port, in a thread.

    Args:
        engine: whose operations are counted.
        calls: how long calls took, by path and status code.
        deliveries: the sinks of lifecycle events.
        address: `HOST:PORT`.
    """

    def __init__(self, engine: Engine, calls: Calls, deliveries: Deliveries, address: str) -> None:
        registry = CollectorRegistry()
        registry.register(_Collector(engine, calls, deliveries))
        host, _, port = address.rpartition(":")
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)
        self.address = f"{host}:{self._server.server_port}"
        """Where it listens, with the real port."""

    def stop(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
