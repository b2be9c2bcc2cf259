"""The probe that the container image's health check runs."""

from __future__ import annotations

import asyncio

import pytest

from longshore_server import health_probe
from tests.conftest import Lab


async def test_serving_is_zero_and_anything_else_is_not(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    address = lab.harness.address
    assert await asyncio.to_thread(health_probe.main, [address]) == 0
    assert await asyncio.to_thread(health_probe.main, [address, "lab.v1.LabService"]) == 0
    assert capsys.readouterr().out == "SERVING\nSERVING\n"
    await lab.harness.running.listener.health.set(serving=False)
    assert await asyncio.to_thread(health_probe.main, [address]) == 1
    assert await asyncio.to_thread(health_probe.main, [address, "no.such.Service"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err


async def test_nobody_there_is_not_serving(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = lab.harness.address
    await lab.stop()
    monkeypatch.setattr(health_probe, "TIMEOUT", 0.2)
    assert await asyncio.to_thread(health_probe.main, [address]) == 1
    assert address in capsys.readouterr().err


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert health_probe.main([]) == 2
    assert "ADDRESS" in capsys.readouterr().err
