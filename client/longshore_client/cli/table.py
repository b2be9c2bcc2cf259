"""Rows under heads, each column as wide as what it holds."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import click

from longshore_client.cli.text import cells, fitted, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = "  "
_TIE = "\u00a0"
_LAST = 20
"""The columns that the last cells have at least where the others are written out."""


class Cell(NamedTuple):
    """A text, and its colour."""

    text: str
    color: str | None = None


def print_rows(
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    header: bool = True,
    narrow: Sequence[Sequence[Cell]] | None = None,
    whole: bool = False,
) -> None:
    """Print rows. A head that begins with `>` stands, like its column, on the right.

    On a terminal each row has one line: the last column is cut to what room there is, then the others.

    Args:
        heads: What stands above the columns.
        rows: As many cells each.
        header: Whether the heads are printed.
        narrow: The same rows in fewer columns, where these leave the last cells hardly any.
        whole: Whether every cell counts: where they would be cut they stand under the first of their row instead.
    """
    if not rows:
        return
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    titles = [head.removeprefix(">") for head in heads]
    widths = _widths(titles, rows)
    if narrow is not None and room is not None and _total(widths[:-1]) + len(_GAP) + min(widths[-1], _LAST) > room:
        rows, widths = narrow, _widths(titles, narrow)
    if whole and room is not None and _total(widths) > room:
        for row in rows:
            _print_under(titles, row, room)
        return
    if room is not None:
        _fit(widths, titles, room)
    texts = [[shown(cell.text) for cell in row] for row in rows]

    def line(row: Sequence[str], colors: Sequence[str | None]) -> str:
        parts = []
        for head, text, width, color in zip(heads, row, widths, colors, strict=True):
            cell = fitted(text.rjust(width) if head.startswith(">") else text, width)
            said = cell.rstrip()
            # Blanks have no colour: at the end of the line they would not be seen to be blanks.
            styled = click.style(said, fg=color) if color and said else said
            parts.append(styled + " " * (len(cell) - len(said)))
        return _GAP.join(parts).rstrip()

    if header:
        click.echo(click.style(line(titles, [None] * len(heads)), bold=True))
    for row, row_texts in zip(rows, texts, strict=True):
        click.echo(line(row_texts, [cell.color for cell in row]))


def _print_under(titles: Sequence[str], row: Sequence[Cell], room: int) -> None:
    """Print a row's first cell, and all others under it, in as many lines as they need."""
    click.echo(click.style(shown(row[0].text), bold=True))
    # No line ends between a title and what it is of.
    said = [
        f"{title.lower()}{_TIE if title else ''}{shown(cell.text)}"
        for title, cell in zip(titles[1:], row[1:], strict=True)
        if cell.text
    ]
    lines = textwrap.fill(", ".join(said), room, initial_indent=_GAP, subsequent_indent=_GAP)
    click.echo(lines.replace(_TIE, " "))


def _widths(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[int]:
    return [max(map(cells, [title, *(shown(row[at].text) for row in rows)])) for at, title in enumerate(titles)]


def _total(widths: Sequence[int]) -> int:
    # Blanks at the end of a line are left out.
    return sum(widths) + len(_GAP) * (len([width for width in widths if width]) - 1)


def _fit(widths: list[int], titles: Sequence[str], room: int) -> None:
    """Cut columns until all have room: the last one to nothing, the second to its head, and then from the right."""
    for column, least in ((-1, 0), (1, len(titles[1])), *((at, 0) for at in range(len(widths) - 1, 0, -1))):
        widths[column] -= min(max(_total(widths) - room, 0), max(widths[column] - least, 0))
