"""The step whose function runs here, and this try of it."""

from __future__ import annotations

import contextvars
from typing import NamedTuple


class Running(NamedTuple):
    """One try of a step."""

    name: str
    key: str
    number: int
    """Tells it from all other tries of the attempt."""


running: contextvars.ContextVar[Running | None] = contextvars.ContextVar("longshore_step", default=None)
"""The try whose function runs here, if any."""


class _Step:
    """The step that is running here: `from longshore_server import step`, then `step.key` inside its function."""

    @property
    def key(self) -> str:
        """Stable across attempts and unique to this step of this operation: pass it on as an idempotency key.

        Raises `RuntimeError` outside a step.
        """
        found = running.get()
        if found is None:
            raise RuntimeError("step.key exists only inside a function that op.step() runs")
        return found.key


step = _Step()


def running_step() -> str:
    """The name of the step whose function runs here; empty: none does."""
    found = running.get()
    return "" if found is None else found.name


def apart(name: str) -> str:
    """The name by which durable awaits are counted that their order alone tells apart: those of a step's function by
    themselves. A re-run that finds the step recorded does not come to them, and must not mistake others for them."""
    found = running_step()
    return f"{name} in step {found}".lstrip() if found else name
