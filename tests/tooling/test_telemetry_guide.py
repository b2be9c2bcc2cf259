"""docs/guides/telemetry.md: its service served, its caller calling, and the tree of spans that it shows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longshore_server import EventSink, LifecycleEvent
from longshore_server.config import load
from longshore_server.store.outbox import EventType

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guides/telemetry.md").read_text("utf-8")
SERVICE, CALLER = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
# What the caller's program does elsewhere: everything is sampled, and printed.
SET_UP = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)

async def main():
"""


def spans(text: str) -> list[Any]:
    """What ConsoleSpanExporter prints."""
    found, decoder, text = [], json.JSONDecoder(), text.lstrip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


async def python(*arguments: str | Path, folder: Path) -> asyncio.subprocess.Process:
    parts = [*sys.path, *(str(ROOT / part) for part in ("examples/orders", "tests/contracts"))]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=folder, stdout=pipe, stderr=pipe,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in parts if part)},
    )  # fmt: skip


async def test_the_service_and_its_caller_make_the_tree_that_is_shown(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    address = f"unix:{tmp_path}/s"
    body = CALLER.replace("localhost:50051", address)
    (tmp_path / "caller.py").write_text(
        SET_UP + "".join(f"    {line}\n" for line in body.splitlines()) + "\nasyncio.run(main())\n"
    )
    serving = await python(
        "-m", "longshore_server", "service:server", "--listen", address, "--metrics", "off", folder=tmp_path
    )
    try:
        assert serving.stderr is not None
        assert b"serving acme.orders.v1.OrdersService" in await serving.stderr.readline()
        calling = await python("caller.py", folder=tmp_path)
        sent, problem = await calling.communicate()
        assert calling.returncode == 0, problem.decode()
        serving.send_signal(signal.SIGTERM)
        received, problem = await serving.communicate()
        assert serving.returncode == 0, problem.decode()
    finally:
        if serving.returncode is None:
            serving.kill()
            await serving.wait()
    found = [*spans(sent.decode()), *spans(received.decode())]
    assert len({span["context"]["trace_id"] for span in found}) == 1
    names = {span["context"]["span_id"]: span["name"] for span in found}
    tree = [(span["name"], names.get(span["parent_id"])) for span in found]
    assert sorted(tree, key=str) == sorted(shown(), key=str)


def shown() -> list[tuple[str, str | None]]:
    """The tree in the guide: each span with its parent."""
    (drawn,) = re.findall(r"^```\n(checkout .*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    above: list[str] = []
    found: list[tuple[str, str | None]] = []
    for line in drawn.splitlines():
        branch, name = re.fullmatch(r"([ │]*[├└]─ )?(.*?) {2,}.*", line).groups("")  # type: ignore[union-attr]
        depth = len(branch) // 3
        del above[depth:]
        found.append((name, above[-1] if above else None))
        above.append(name)
    return found


async def test_the_sinks_are_understood_and_take_events(tmp_path: Path) -> None:
    (settings,) = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    (tmp_path / "settings.toml").write_text(settings)
    sinks = load({}, {}, tmp_path / "settings.toml").sinks
    assert [(sink.name, type(sink.make({})).__name__) for sink in sinks] == [
        ("log", "LogSink"), ("otel", "OtelSink"), ("ingest", "HttpSink"),
    ]  # fmt: skip
    (code,) = re.findall(r"^```py\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    kept: dict[str, Any] = {}

    class Ledger:
        async def add(self, id: str, event: dict[str, Any]) -> None:
            kept[id] = event

    names: dict[str, Any] = {
        "EventSink": EventSink, "Orders": object, "ledger": Ledger(), "Server": lambda _, sinks: sinks
    }  # fmt: skip
    exec(code, names)
    event = LifecycleEvent("1", "job.started", datetime.now(UTC), "jobs/1", "job", "reserve")
    await names["server"]["audit"].deliver([event])
    assert kept["1"]["type"] == "job.started"


def test_every_event_and_every_member_is_in_the_guide() -> None:
    for type in EventType:
        assert f"| `{type}` |" in GUIDE
    event = LifecycleEvent("1", "job.started", datetime.now(UTC), "jobs/1", "job", "reserve")
    for name in event.to_json():
        assert f"`{name}`" in GUIDE


def test_every_block_has_its_part_here() -> None:
    assert len(shown()) == 6
    assert GUIDE.count("```") == 12
