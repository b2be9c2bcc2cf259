"""Metrics for Prometheus, read from the engine when they are asked for: the hot path counts nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from longshore_server.engine.engine import Engine
from longshore_server.lifecycle import State


class _EngineCollector(Collector):
    """Reads plain numbers that the event loop keeps; it runs in the HTTP server's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
        yield GaugeMetricFamily("longshore_watches_open", "Open watches.", value=engine.watches.count)
        writer = engine.store.writer
        yield CounterMetricFamily("longshore_store_commits", "Transactions committed.", value=writer.published)
        yield CounterMetricFamily("longshore_store_changes", "Changes committed.", value=writer.items)
        yield GaugeMetricFamily("longshore_store_backlog", "Changes that wait for their commit.", value=writer.backlog)


class MetricsServer:
    """An HTTP server of its own port, in a thread."""

    def __init__(self, engine: Engine, address: str) -> None:
        registry = CollectorRegistry()
        registry.register(_EngineCollector(engine))
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
