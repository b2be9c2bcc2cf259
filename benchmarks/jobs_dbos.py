"""The peer of `jobs`: DBOS Transact on SQLite, in an environment of its own, doing the same.

    benchmarks/.build/dbos/bin/python benchmarks/jobs_dbos.py DIRECTORY

Reads lines `WAY INFLIGHT SECONDS`, answers each with a JSON object. Ways: `work` creates a workflow, which DBOS runs in
a thread, and waits for its result; `call` calls the workflow as a function, its fastest way. One step each. Both with
threads, which are faster than its coroutines.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS  # type: ignore[import-not-found]  # it is in an environment of its own

DBOS(
    config={
        "name": "bench", "system_database_url": f"sqlite:///{sys.argv[1]}/dbos.sqlite", "run_admin_server": False,
        "log_level": "ERROR",
    }
)  # fmt: skip


def count(number: int) -> int:
    """The step."""
    return number + 1


def work(number: int) -> int:
    """The workflow."""
    return step(number)


# Not as decorators, because mypy runs where there is no DBOS to tell their types.
step: Callable[[int], int] = DBOS.step()(count)
workflow: Callable[[int], int] = DBOS.workflow()(work)


def created(number: int) -> int:
    """The result of a workflow that runs in a thread of its own."""
    result: int = DBOS.start_workflow(workflow, number).get_result()
    return result


WAYS = {"work": created, "call": workflow}


def measure(way: str, inflight: int, seconds: float) -> dict[str, float]:
    """Jobs a second."""
    began = time.perf_counter()

    def caller(_: int) -> int:
        done = 0
        while time.perf_counter() < began + seconds:
            assert WAYS[way](done) == done + 1
            done += 1
        return done

    with ThreadPoolExecutor(inflight) as pool:
        done = sum(pool.map(caller, range(inflight)))
    return {"rate": done / (time.perf_counter() - began)}


DBOS.launch()
print("ready", flush=True)
for line in sys.stdin:
    way, inflight, seconds = line.split()
    print(json.dumps(measure(way, int(inflight), float(seconds))), flush=True)
DBOS.destroy()
