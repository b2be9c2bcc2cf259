"""docs/guides/jobs.md: its service served, its commands run, its metrics there."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from longshore_server import JobFailedError
from longshore_server.testing import Harness
from tests.cli.test_cli import spawn

GUIDE = (Path(__file__).parents[2] / "docs/guides/jobs.md").read_text("utf-8")
SERVICE, *_ = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ longshore (.*)$", GUIDE, re.MULTILINE)


async def test_its_commands_work_on_its_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service: Any = ModuleType("jobs_guide")
    monkeypatch.setitem(sys.modules, service.__name__, service)
    exec(SERVICE, service.__dict__)
    harness = Harness(service.server, tmp_path / "data", metrics="127.0.0.1:0")
    async with harness.serve():
        done, dead = [await service.reserve.create(service.Reserve(sku, 1)) for sku in ("A1", "whale")]
        assert await done.wait() == "1 A1 from shelf 7"
        with pytest.raises(JobFailedError):
            await dead.wait()
        said = {}
        for command in COMMANDS:
            process = await spawn(harness.address, *shlex.split(command.replace("NAME", dead.name)))
            out, err = (part.decode() for part in await process.communicate())
            assert process.returncode == 0, (command, err)
            said[command] = out
            if command.startswith(("jobs resume", "jobs replay")):
                with pytest.raises(JobFailedError):
                    await dead.wait()
        assert dead.name in said["jobs ls"]
        assert "TOO_HEAVY" in said["jobs get NAME"]
        assert "completed  look" in said["jobs steps NAME"]
        assert said["jobs replay --filter 'queue=reserve AND reason=TOO_HEAVY'"] == "1 dead letter replayed\n"
        assert said["jobs dismiss --all"] == "1 dead letter dismissed\n"
        metrics = harness.running.metrics
        assert metrics is not None
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics.address}/metrics").read())
    for name in re.findall(r"`(longshore_\w+)`", GUIDE):
        assert f"\n{name}{{".encode() in text, name


def test_every_verb_is_told_of() -> None:
    from longshore_client.cli.jobs import jobs

    assert [verb for verb in jobs.commands if f"longshore jobs {verb}" not in GUIDE and f"`{verb} " not in GUIDE] == []
