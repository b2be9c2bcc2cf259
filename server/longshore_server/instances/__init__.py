"""Durable instances: recurring, debounce and task. One handler of an instance runs at a time, in acceptance order.

verb -> store (accepted) -> scheduler (what is due) -> runner (one handler) -> store (all of its effect at once)
"""

from __future__ import annotations
