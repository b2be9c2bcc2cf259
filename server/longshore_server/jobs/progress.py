"""How the progress of a job goes on to what is attached to it: by the type of the message, or through a function.

What is stored is a text: `longshore.v1.CounterProgress` for messages of that type, `module:function=acme.v1.Progress`
for what a function makes of all others.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from longshore_server.store.mutations.job_end import URL_PREFIX

log = logging.getLogger(__name__)


def spell(progress: type[Message] | None, mapping: Callable[[Any], Any] | None) -> str:
    """What an attachment keeps. `progress`: the message that the operation reports; None: it reports none.

    Raises `ValueError` for a function that a later server could not find.
    """
    if progress is None:
        if mapping is not None:
            raise ValueError("progress: the contract declares no progress, so that nothing can be made of the job's")
        return ""
    name = str(progress.DESCRIPTOR.full_name)
    if mapping is None:
        return name
    path = f"{getattr(mapping, '__module__', '')}:{getattr(mapping, '__qualname__', '')}"
    try:
        found = _find(path)
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not mapping:
        raise ValueError(f"progress: {path} cannot be found by a later server: define it at the top of a module")
    return f"{path}={name}"


def translate(spelled: str, value: Message) -> bytes | None:
    """The progress of what is attached, a serialized Any; None: this one does not go on to it."""
    path, _, name = spelled.rpartition("=")
    if path and value.DESCRIPTOR.full_name != name:
        try:
            value = _find(path)(value)
        except Exception:
            log.exception("%s made no progress of a job's", path)
            return None
        if not isinstance(value, Message) or value.DESCRIPTOR.full_name != name:
            log.error("%s returned %s instead of %s", path, type(value).__name__, name)
            return None
    if value.DESCRIPTOR.full_name != name:
        return None
    return AnyMessage(type_url=URL_PREFIX + name, value=value.SerializeToString()).SerializeToString()


def _find(path: str) -> Any:
    module, _, qualname = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found
