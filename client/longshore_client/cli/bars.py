"""Bars at the bottom of a terminal: one for what an operation counts, one for bytes."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, TextIO

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn
from rich.progress_bar import ProgressBar
from rich.segment import Segment

from longshore_client.cli.text import elapsed, fitted, shown, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from rich.console import ConsoleOptions, RenderResult
    from rich.progress import Task, TaskID

LINE = 77
"""The columns of a line, in a terminal that has as many; `^C`, which that writes behind it, has room in 80."""
_SPARE = 3
_GAPS = 4
_NAME = 22
_LEAST_NAME = 8
_LEAST_BAR = 16
_SPENT = len("  59 min 59 s")
_BYTES = tuple(map(len, ("123.4 MB of 123.4 GB  123.4 MB/s  100 min left", "123.4 MB of 123.4 GB  100 min left",
                         "123.4 MB of 123.4 GB")))  # fmt: skip
"""The columns of the facts of bytes: with the speed, without it, and without the time that is left."""


_RECENT = 10.0
"""Seconds: how fast bytes come is how fast they came in these."""


class Layout(NamedTuple):
    """The columns of the parts of a line."""

    name: int
    bar: int
    facts: int


def layout(width: int, wanted: Sequence[int]) -> Layout:
    """Share out the columns of a line. Where there are few, the name is cut short, then the bar; then facts are left
    out, each of them whole: never is one cut.

    Args:
        width: The columns of the line.
        wanted: How many the facts have, all of them, and then the fewer that are worth showing alone.
    """
    room = max(width - _GAPS, 0)
    facts = min(next((columns for columns in wanted if room - columns >= _LEAST_NAME), wanted[-1]), room)
    rest = room - facts
    name = min(_NAME, max(rest - _LEAST_BAR, _LEAST_NAME), rest)
    return Layout(name, rest - name, facts)


class _Column(ProgressColumn):
    """A whole line: what it is about, the bar, and the facts."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self._bars = bars

    def render(self, task: Task) -> _Line:
        return _Line(task, self._bars.wanted)


class _Line:
    """As wide as every other, whatever it says."""

    def __init__(self, task: Task, wanted: Sequence[int]) -> None:
        self._task = task
        self._wanted = wanted

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = min(LINE, options.max_width - _SPARE)
        return Measurement(width, width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        task, columns = self._task, layout(min(LINE, options.max_width), self._wanted)
        yield Segment(f"  {fitted(task.description, columns.name)} ")
        if columns.bar:
            pulse = task.total is None
            yield ProgressBar(task.total, task.completed, columns.bar, pulse=pulse, animation_time=task.get_time())
        facts: Sequence[str] = task.fields["facts"]()
        text = next((text for text in facts if len(text) <= columns.facts), facts[-1])
        yield Segment(f" {fitted(text, columns.facts)}")


class _Above(FileProxy):
    """A stream whose lines go above the bars. Rich's own does not tell its encoding, so that click writes past it."""

    def __init__(self, console: Console, file: TextIO) -> None:
        super().__init__(console, file)
        self._file = file

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._file.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._file.errors


class _Rate:
    """How fast bytes come: over the last `_RECENT` seconds, also those in which none came.

    Args:
        clock: The time, in seconds.
        done: How many there are already.
    """

    def __init__(self, clock: Callable[[], float], done: int) -> None:
        self._clock = clock
        # Never changed, but replaced: the bars are drawn by a thread of their own.
        self._samples = [(clock(), done)]

    def add(self, done: int) -> int:
        """So many have come by now; never fewer than before. Returns how many."""
        done = max(done, self._samples[-1][1])
        self._samples = [*self._recent(), (self._clock(), done)]
        return done

    def now(self) -> float | None:
        """Bytes a second; None: it is too early to say."""
        samples = self._recent()
        (begin, before), (_, done) = samples[0], samples[-1]
        spent = min(self._clock() - begin, _RECENT)
        return (done - before) / spent if spent > 0 else None

    def _recent(self) -> list[tuple[float, int]]:
        """What was told in this time, and the last before it."""
        samples, begin = self._samples, self._clock() - _RECENT
        before = [sample for sample in samples if sample[0] <= begin]
        return before[-1:] + samples[len(before) :]


class Bars:
    """Appears with the first thing to show, once. Needs a terminal on stderr.

    Args:
        now: The time, for what has been spent while nothing comes.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._console = Console(stderr=True)
        self._rich: Progress | None = None
        self._open_streams = contextlib.ExitStack()
        self._count: TaskID | None = None
        self._bytes: TaskID | None = None
        self._closed = False
        self._spent: timedelta | None = None
        self._counted = 0
        self._counts_bytes = False

    @property
    def wanted(self) -> Sequence[int]:
        """The columns of the facts of the line that has the most of them: bars do not move when others change."""
        return [max(columns, self._counted) for columns in (_BYTES if self._counts_bytes else (0,))]

    @property
    def columns(self) -> int:
        """How wide the terminal is now."""
        return self._console.width

    def count(self, text: str, done: int, total: int | None, begin: datetime, spent: timedelta) -> None:
        """Show `3/4`, and for how long the operation has been under way: that goes on until `stop_clock`.

        Args:
            begin: When the operation has begun, by the server's clock.
            spent: From there to this progress: no less is shown where our clock is behind the server's.
        """
        of = "?" if total is None else str(total)
        figures = f"{done:>{len(of)}}/{of}"

        def facts() -> tuple[str]:
            now = self._spent if self._spent is not None else max(spent, self._now() - begin)
            return (f"{figures}{elapsed(now.total_seconds()):>{_SPENT}}",)

        self._counted = max(self._counted, len(figures) + _SPENT)
        if (rich := self._open()) is None:
            return
        if self._count is None:
            self._count = rich.add_task("", facts=facts)
        rich.update(self._count, description=shown(text), completed=done, total=total, facts=facts)

    def stop_clock(self, spent: timedelta) -> None:
        """The operation has ended, after so long."""
        self._spent = spent

    def bytes(self, text: str, done: int, total: int | None) -> None:
        """Show `1.2 MB of 3.4 GB`, how fast it goes and how long it will take."""
        self._counts_bytes = True
        if (rich := self._open()) is None:
            return
        if self._bytes is None:
            # Its speed is that of what comes from here on.
            self._rate = _Rate(rich.get_time, done)
        rate = self._rate
        # Two may tell: who sends, and the operation, which knows of less.
        done = rate.add(done)
        sizes = size(done) if total is None else f"{size(done)} of {size(total)}"

        def facts() -> tuple[str, ...]:
            speed = rate.now()
            if speed is None:
                return (sizes,)
            left = f"  {_left((total - done) / speed)}" if speed and total is not None and done < total else ""
            return f"{sizes}  {size(speed)}/s{left}", f"{sizes}{left}", sizes

        if self._bytes is None:
            self._bytes = rich.add_task(text, completed=done, total=total, facts=facts)
        else:
            rich.update(self._bytes, completed=done, total=total, facts=facts)

    def bytes_done(self) -> None:
        """There are no more bytes to come."""
        if self._rich is not None and self._bytes is not None:
            self._rich.remove_task(self._bytes)
            self._bytes = None

    def close(self) -> None:
        """Leave the terminal in order, for good: what is still told is no longer shown."""
        self._closed = True
        if self._rich is not None:
            self._open_streams.close()
            self._rich.stop()
            self._rich = self._count = self._bytes = None

    def _open(self) -> Progress | None:
        if self._rich is None and not self._closed:
            console = self._console
            self._rich = Progress(_Column(self), console=console, redirect_stdout=False, redirect_stderr=False)
            # Lines that are printed meanwhile must go above the bars where they share the terminal with them.
            self._open_streams.enter_context(contextlib.redirect_stderr(_Above(console, sys.stderr)))
            if sys.stdout.isatty():
                self._open_streams.enter_context(contextlib.redirect_stdout(_Above(console, sys.stdout)))
            self._rich.start()
        return self._rich


def _left(seconds: float) -> str:
    """In few characters, the unit growing with it: `8 s left`, `12 min left`."""
    for unit, length in (("s", 1), ("min", 60)):
        if seconds < 100 * length:
            return f"{seconds / length:.0f} {unit} left"
    return f"{seconds / 3600:.0f} h left"
