"""Bars at the bottom of a terminal: one for what an operation counts, one for bytes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from longshore_client.cli.text import shown

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Put a number of bytes into few characters: `12 B`, `1.2 kB`, `3.4 GB`."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


class Bars:
    """Appears with the first thing to show. Needs a terminal on stderr."""

    def __init__(self) -> None:
        self._rich: Progress | None = None
        self._count: TaskID | None = None
        self._bytes: TaskID | None = None

    def count(self, text: str, done: int, total: int | None, spent: str) -> None:
        """Show `3/4`; `spent` is the operation's own time, as a watch may come late."""
        rich = self._open()
        if self._count is None:
            self._count = rich.add_task("", facts="")
        facts = f"{done}/{'?' if total is None else total}{spent:>11}"
        rich.update(self._count, description=shown(text), completed=done, total=total, facts=facts)

    def bytes(self, text: str, done: int, total: int | None) -> None:
        """Show `1.2 MB of 3.4 GB`, how fast it goes and how long it will take."""
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
            self._rich.stop()
            self._rich = self._count = self._bytes = None

    def _open(self) -> Progress:
        if self._rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            # Lines that are printed meanwhile must pass through rich where they share the terminal with the bar.
            self._rich = Progress(
                TextColumn("  {task.description:<22}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                console=Console(stderr=True),
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=True,
            )
            self._rich.start()
        return self._rich
