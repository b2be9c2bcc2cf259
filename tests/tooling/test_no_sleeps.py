"""Nothing sleeps to wait for something: neither what is served nor what tests it. What does has its reason here."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLEEPS = re.compile(r"\b(?:asyncio|time|anyio|trio)\.sleep\b(?!\(0[,)])")
IMPORTED = re.compile(r"^\s*from (?:asyncio|time|anyio|trio) import [^#\n]*\bsleep\b", re.MULTILINE)

MAY: dict[str, tuple[int, str]] = {
    "client/longshore_client/retry.py": (1, "the pause between two tries; whoever makes a client can give another"),
    "client/longshore_client/template/widgets/service.py": (1, "stands for the work of whoever begins a project"),
    "tests/faults/instancing.py": (1, "a handler works for a while, in a process that is killed meanwhile"),
    "tests/faults/load.py": (2, "a caller goes away for a while, from a server that is killed meanwhile"),
    "tests/faults/service.py": (4, "handlers work for a while, in a process that is killed meanwhile"),
    "tests/faults/steered.py": (5, "handlers work for a while, in a process that is killed meanwhile"),
    "tests/faults/steering.py": (5, "callers think for a while, about a server that is killed meanwhile"),
    "tests/faults/test_bytes_torture.py": (1, "how long a proxy stalls: the server's time limits are real ones"),
    "tests/faults/test_instance_torture.py": (2, "when a process is killed, and how long its last timers take"),
    "tests/faults/test_torture.py": (2, "when a process is killed: at any moment, not at one that tells of itself"),
}
"""How many there are in a file, and why."""


def sleeps(path: Path) -> int:
    """How often it says so, in code or in a text that is run; `sleep(0)`, a turn of the event loop, does not count."""
    source = path.read_text("utf-8")
    return len(SLEEPS.findall(source)) + len(IMPORTED.findall(source))


def test_nothing_sleeps_but_for_a_reason() -> None:
    found = {
        str(path.relative_to(ROOT)): count
        for folder in ("server", "client", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != Path(__file__).resolve() and (count := sleeps(path))
    }
    assert found == {path: count for path, (count, _) in MAY.items()}
