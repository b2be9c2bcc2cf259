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
from longshore_server.lifecycle import State

Calls: TypeAlias = Mapping[str, Mapping[str, Histogram]]


class _Collector(Collector):
    """Reads plain numbers that other threads keep; it runs in the HTTP server's."""

    def __init__(self, engine: Engine, calls: Calls) -> None:
        self._engine = engine
        self._calls = calls

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


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    """One series; Prometheus wants its buckets cumulative."""
    bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)


class MetricsServer:
    """An HTTP server of its own port, in a thread.

    Args:
        engine: whose operations are counted.
        calls: how long calls took, by path and status code.
        address: `HOST:PORT`.
    """

    def __init__(self, engine: Engine, calls: Calls, address: str) -> None:
        registry = CollectorRegistry()
        registry.register(_Collector(engine, calls))
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
