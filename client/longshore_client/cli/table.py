"""Rows under heads, each column as wide as what it holds."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from longshore_client.cli.text import cells, fitted, shown

if TYPE_CHECKING:
    from collections.abc import Sequence


class Cell(NamedTuple):
    """A text, and its colour."""

    text: str
    color: str | None = None


def print_rows(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, header: bool = True) -> None:
    """Print rows. A head that begins with `>` stands, like its column, on the right. On a terminal the last column is
    cut to what room there is."""
    if not rows:
        return
    titles = [head.removeprefix(">") for head in heads]
    texts = [[shown(cell.text) for cell in row] for row in rows]
    widths = [max(cells(row[column]) for row in [titles, *texts]) for column in range(len(heads))]
    if sys.stdout.isatty():
        widths[-1] = min(widths[-1], max(shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * len(heads), 0))

    def line(row: Sequence[str], colors: Sequence[str | None]) -> str:
        parts = []
        for head, text, width, color in zip(heads, row, widths, colors, strict=True):
            cell = text.rjust(width) if head.startswith(">") else fitted(text, width)
            said = cell.rstrip()
            # Blanks have no colour: at the end of the line they would not be seen to be blanks.
            styled = click.style(said, fg=color) if color and said else said
            parts.append(styled + " " * (len(cell) - len(said)))
        return "  ".join(parts).rstrip()

    if header:
        click.echo(click.style(line(titles, [None] * len(heads)), bold=True))
    for row, row_texts in zip(rows, texts, strict=True):
        click.echo(line(row_texts, [cell.color for cell in row]))
