"""Traces by OpenTelemetry, if the program has set it up. It is never loaded for its own sake."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from longshore_server.tracer import Backend

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


def ambient() -> Any:
    """The span that is current here and now; None when there cannot be one."""
    api = sys.modules.get("opentelemetry.trace")
    return None if api is None else api.get_current_span()


def backend(provider: TracerProvider | None, outside: Any) -> Backend | None:
    """What records spans; None: nobody has said where to.

    Args:
        provider: default the program's own, if it has set one.
        outside: the span that was current where the server began to listen, which is no call's.
    """
    if provider is None:
        api = sys.modules.get("opentelemetry.trace")
        if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
            return None
        provider = api.get_tracer_provider()
    from longshore_server.telemetry.spans import Spans

    return Spans(provider, outside)
