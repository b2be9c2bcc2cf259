"""The step that runs here: what its function may know of it, and how it is called."""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable
from typing import Any

_key: contextvars.ContextVar[str | None] = contextvars.ContextVar("longshore_step", default=None)


class _Step:
    """The step that is running here: `from longshore_server import step`, then `step.key` inside its function."""

    @property
    def key(self) -> str:
        """Stable across attempts and unique to this step of this operation: pass it on as an idempotency key.

        Raises `RuntimeError` outside a step.
        """
        key = _key.get()
        if key is None:
            raise RuntimeError("step.key exists only inside a function that op.step() runs")
        return key


step = _Step()


def running() -> bool:
    """Whether this code is inside a step."""
    return _key.get() is not None


async def run(key: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What `function(*args)` returns, awaited where it is awaitable; inside it `step.key` is `key`."""
    token = _key.set(key)
    try:
        result = function(*args)
        return await result if inspect.isawaitable(result) else result
    finally:
        _key.reset(token)
