"""How many jobs of each queue there are, and have ended: kept as commits come, for whoever looks often."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from longshore_server.job_lifecycle import JobState, Stand
from longshore_server.store.job_record import JobRecord

_STATES, _STANDS = len(JobState) + 1, len(Stand)


class Tally:
    """Plain numbers, which other threads may read."""

    def __init__(self) -> None:
        # By queue, then by state and stand: whole numbers index faster than enums hash.
        self._standing: dict[str, list[int]] = defaultdict(lambda: [0] * (_STATES * _STANDS))
        self._ended: dict[str, list[int]] = defaultdict(lambda: [0] * _STATES)

    def begin(self, counts: Mapping[tuple[str, JobState, Stand], int]) -> None:
        """Begin with what the store holds."""
        for (queue, state, stand), count in counts.items():
            self._standing[queue][state * _STANDS + stand] += count

    def move(self, before: JobRecord | None, after: JobRecord | None) -> None:
        """A job was something and is something else; None: there was, or is, none."""
        if before is not None:
            self._standing[before.queue][before.state * _STANDS + before.stand] -= 1
        if after is not None:
            self._standing[after.queue][after.state * _STANDS + after.stand] += 1
            if after.ended is not None and (before is None or before.ended is None):
                self._ended[after.queue][after.state] += 1

    @property
    def queues(self) -> list[str]:
        """Those that have, or had, any jobs."""
        return list(self._standing)

    def standing(self, queue: str, state: JobState, stand: Stand = Stand.NONE) -> int:
        """How many jobs there are: of those that have ended only the dead letters are counted."""
        found = self._standing.get(queue)
        return 0 if found is None else found[state * _STANDS + stand]

    def live(self, queue: str) -> int:
        """How many have not ended."""
        found = self._standing.get(queue)
        return 0 if found is None else sum(found[: JobState.COMPLETED * _STANDS])

    def ended(self, queue: str, state: JobState) -> int:
        """How many have ended so since the server began."""
        found = self._ended.get(queue)
        return 0 if found is None else found[state]
