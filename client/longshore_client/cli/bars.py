"""Bars at the bottom of a terminal: one for what an operation counts, one for bytes."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn
from rich.progress_bar import ProgressBar
from rich.segment import Segment

from longshore_client.cli.text import fitted, shown, size

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderResult
    from rich.progress import Task, TaskID

LINE = 77
"""The columns of a line, in a terminal that has as many; `^C`, which that writes behind it, has room in 80."""
_SPARE = 3
_TEXT = 22
_SPENT = 11
_BYTES = 40
"""The columns of `123.4 MB of 3.4 GB  12.1 MB/s  35 s left`."""


class _Column(ProgressColumn):
    """A whole line: what it is about, the bar, and the facts."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self._bars = bars

    def render(self, task: Task) -> _Line:
        return _Line(task, self._bars.room)


class _Line:
    """As wide as every other, whatever it says."""

    def __init__(self, task: Task, room: int) -> None:
        self._task = task
        self._room = room

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = min(LINE, options.max_width - _SPARE)
        return Measurement(width, width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        task, rest = self._task, min(LINE, options.max_width) - self._room - 4
        text = max(min(_TEXT, rest), 0)
        yield Segment(f"  {fitted(task.description, text)} ")
        if rest > text:
            bar = rest - text
            yield ProgressBar(task.total, task.completed, bar, pulse=task.total is None, animation_time=task.get_time())
        yield Segment(f" {fitted(task.fields['facts'], self._room)}")


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


class Bars:
    """Appears with the first thing to show. Needs a terminal on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._rich: Progress | None = None
        self._open_streams = contextlib.ExitStack()
        self._count: TaskID | None = None
        self._bytes: TaskID | None = None
        self.room = 0
        """The columns of the facts of the line that has the most of them: bars do not move when others change."""

    @property
    def columns(self) -> int:
        """How wide the terminal is now."""
        return self._console.width

    def count(self, text: str, done: int, total: int | None, spent: str) -> None:
        """Show `3/4`; `spent` is the operation's own time, as a watch may come late."""
        of = "?" if total is None else str(total)
        facts = f"{done:>{len(of)}}/{of}{spent:>{_SPENT}}"
        self.room = max(self.room, len(facts))
        rich = self._open()
        if self._count is None:
            self._count = rich.add_task("", facts="")
        rich.update(self._count, description=shown(text), completed=done, total=total, facts=facts)

    def bytes(self, text: str, done: int, total: int | None) -> None:
        """Show `1.2 MB of 3.4 GB`, how fast it goes and how long it will take."""
        self.room = max(self.room, _BYTES)
        rich = self._open()
        facts = size(done) if total is None else f"{size(done)} of {size(total)}"
        if self._bytes is None:
            # Its speed is that of what comes from here on.
            self._bytes = rich.add_task(text, completed=done, total=total, facts=facts)
            return
        rich.update(self._bytes, completed=done, total=total)
        task = rich.tasks[rich.task_ids.index(self._bytes)]
        if task.speed:
            facts += f"  {size(task.speed)}/s"
        if task.time_remaining and not task.finished:
            facts += f"  {task.time_remaining:.0f} s left"
        rich.update(self._bytes, facts=facts)

    def bytes_done(self) -> None:
        """There are no more bytes to come."""
        if self._rich is not None and self._bytes is not None:
            self._rich.remove_task(self._bytes)
            self._bytes = None

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._rich is not None:
            self._open_streams.close()
            self._rich.stop()
            self._rich = self._count = self._bytes = None

    def _open(self) -> Progress:
        if self._rich is None:
            console = self._console
            self._rich = Progress(_Column(self), console=console, redirect_stdout=False, redirect_stderr=False)
            # Lines that are printed meanwhile must go above the bars where they share the terminal with them.
            self._open_streams.enter_context(contextlib.redirect_stderr(_Above(console, sys.stderr)))
            if sys.stdout.isatty():
                self._open_streams.enter_context(contextlib.redirect_stdout(_Above(console, sys.stdout)))
            self._rich.start()
        return self._rich
