"""How events look: lines for people, bars on a terminal, JSON for programs.

Informational and standard output goes to stdout, warnings, errors and progress to stderr, so that a pipe gets what the
operation prints and nothing else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import click

from longshore_client import events
from longshore_client.cli.as_json import JsonRenderer
from longshore_client.cli.text import cells, elapsed, fitted, movable, shown, size
from longshore_client.grants import UploadState
from longshore_client.state import State

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from google.protobuf.message import Message

    from longshore_client.cli.reflection import Types
    from longshore_client.errors import LongshoreError
    from longshore_client.grants import DownloadGrant, SendProgress, UploadGrant
    from longshore_client.snapshot import Snapshot

_MILESTONE = "longshore.v1.MilestoneProgress"
_COUNTER = "longshore.v1.CounterProgress"
_DIAGNOSTIC = "longshore.v1.DiagnosticOutput"
_TO_STDERR = frozenset({2, 4})  # CHANNEL_WARN, CHANNEL_STDERR

# Fields that name what is going on; the first that a message has leads its line.
_HEADS = ("step", "stage", "phase", "label", "status", "state", "name")
_HEAD_WIDTH = 10
_LINE_WIDTH = 77
_SPENT_WIDTH = 7


class Renderer(Protocol):
    """Shows the events of one operation as they come."""

    def event(self, event: events.Event[Any, Any, Any]) -> None:
        """Show one event."""

    def sent(self, progress: SendProgress) -> None:
        """Show how far the bytes have come that this program sends."""

    def ended(self, snapshot: Snapshot[Any, Any]) -> None:
        """Show how an operation ended whose last event is not there to be shown."""

    def close(self) -> None:
        """Leave the terminal in order."""


def renderer(types: Types, *, as_json: bool, name: str, begin: datetime | None = None) -> Renderer:
    """Choose how to show events: JSON, bars on a terminal, or plain lines.

    Args:
        begin: When the operation was accepted. Default: with the first event that comes.
    """
    if as_json:
        return JsonRenderer(types, name)
    if movable():
        return LiveRenderer(types, begin)
    return PlainRenderer(types, begin)


def describe(message: Message, types: Types) -> tuple[str, str]:
    """Put any message into a head and a text, for example `reserve` and `Reserving ord_123`."""
    name = message.DESCRIPTOR.full_name
    if name == _MILESTONE:
        return "", f"{_text(message, 'label')}  {_get(message, 'step')}/{_get(message, 'total_steps')}"
    if name == _COUNTER:
        total = f"/{_get(message, 'total')}" if message.HasField("total") else ""
        return "", f"{_text(message, 'message')}  {_get(message, 'current')}{total}".lstrip()
    head = ""
    parts = []
    fields = {field.name: value for field, value in message.ListFields()}
    lead = next((field for field in _HEADS if isinstance(fields.get(field), str)), None)
    data = types.to_dict(message)
    if not isinstance(data, dict):
        return "", _short(data)  # one of protobuf's own, such as an Int32Value
    for field, value in fields.items():
        if field == lead:
            head = str(value)
        elif isinstance(value, str):
            parts.append(value)
        else:
            parts.append(f"{field}={_short(data.get(field, str(value).strip()))}")
    return head, "  ".join(parts)


class PlainRenderer:
    """Lines, for logs and pipes."""

    def __init__(self, types: Types, begin: datetime | None = None) -> None:
        self._types = types
        self._begin = begin

    def event(self, event: events.Event[Any, Any, Any]) -> None:
        if self._begin is None:
            self._begin = event.snapshot.create_time if isinstance(event, events.Reset) else event.time
        spent = event.time - self._begin
        match event:
            case events.Progress():
                self.progress(event.value, spent)
            case events.Output():
                self.output(event.value)
            case events.AttemptFailed():
                again = f" in {elapsed(event.retry_delay.total_seconds())}" if event.retry_delay else ""
                why = f"{event.error.message.rstrip('.')} ({event.error.reason})"
                self.note(f"attempt {event.attempt} ended: {why}; running again{again}")
            case events.Cancelling():
                self.note(f"cancelling{f': {event.reason}' if event.reason else ''}")
            case events.Stopping():
                self.note(f"stopping{f': {event.reason}' if event.reason else ''}")
            case events.Signalled():
                said = "  ".join(part for part in describe(event.payload, self._types) if part)
                self.note(f"signal {event.name} from {event.sender}{f': {said}' if said else ''}")
            case events.Transfer():
                self.transfer(event.upload, spent)
            case events.Offered():
                self.offered(event.download)
            case events.Completed():
                self.outcome(event.state, spent, None, stopped=event.stopped)
            case events.Failed() | events.Cancelled():
                self.outcome(event.state, spent, event.error)
            case events.Reset():
                self.note(f"the log no longer reaches back: events up to {event.sequence} are left out")
                if event.snapshot.progress is not None and not event.state.terminal:
                    self.progress(event.snapshot.progress, spent)
            case _:
                pass

    def sent(self, progress: SendProgress) -> None:
        pass  # a line for every report would be too many; the end of the upload has one

    def transfer(self, upload: UploadGrant, spent: timedelta) -> None:
        if upload.state is UploadState.COMMITTED:
            self.line("stored", size(upload.committed_size), spent)
        elif upload.state is UploadState.FAILED:
            self.note(f"the upload has failed: {upload.reason}")

    def offered(self, download: DownloadGrant) -> None:
        what = "  ".join(
            part
            for part in (
                download.filename,
                size(download.size) if download.size is not None else "",
                download.content_type,
                download.name,
            )
            if part
        )
        self.line("offers", what)

    def ended(self, snapshot: Snapshot[Any, Any]) -> None:
        spent = (snapshot.end_time or snapshot.update_time) - snapshot.create_time
        self.outcome(snapshot.state, spent, snapshot.error, stopped=snapshot.stopped)

    def outcome(self, state: State, spent: timedelta, error: LongshoreError | None, *, stopped: bool = False) -> None:
        """The line that says how it ended."""
        after = elapsed(spent.total_seconds())
        why = f": {error.message}" if error is not None else ""
        if state is State.COMPLETED:
            self.end("✔", "green", f"{'stopped after' if stopped else 'completed in'} {after}")
        elif state is State.FAILED:
            self.end("✘", "red", f"failed after {after}{why}{f' ({error.reason})' if error is not None else ''}")
        elif state is State.CANCELLED:
            self.end("■", "yellow", f"cancelled after {after}{why}")

    def progress(self, value: Message, spent: timedelta) -> None:
        self.line(*describe(value, self._types), spent)

    def line(self, head: str, text: str, spent: timedelta | None = None) -> None:
        line = shown(f"  {head:<{_HEAD_WIDTH}}{text}" if head else f"  {text}")
        after = "" if spent is None else elapsed(spent.total_seconds())
        after = f"  {after:>{_SPENT_WIDTH}}"
        self.note_raw(f"{self.fit(line, len(after))}{after}".rstrip())

    def fit(self, line: str, behind: int) -> str:
        """A line with room for so many columns behind it, wide as others, and all of it: a log has it whole."""
        return fitted(line, max(_LINE_WIDTH - behind, cells(line)))

    def output(self, value: Message) -> None:
        if value.DESCRIPTOR.full_name == _DIAGNOSTIC:
            to_stderr = _get(value, "channel") in _TO_STDERR
            click.echo(shown(_text(value, "message"), keep="\n\t"), err=to_stderr)
        else:
            head, text = describe(value, self._types)
            click.echo(shown(f"{head}  {text}" if head and text else head or text))

    def note(self, text: str) -> None:
        self.note_raw(f"  {click.style(shown(text), fg='yellow')}")

    def note_raw(self, line: str) -> None:
        click.echo(line, err=True)

    def end(self, mark: str, color: str, text: str) -> None:
        click.echo(f"{click.style(mark, fg=color)} {shown(text)}", err=True)

    def close(self) -> None:
        pass


class LiveRenderer(PlainRenderer):
    """Lines, and bars at the bottom for bytes and for progress that can be measured."""

    def __init__(self, types: Types, begin: datetime | None = None) -> None:
        super().__init__(types, begin)
        from longshore_client.cli.bars import Bars

        self._bars = Bars()

    def fit(self, line: str, behind: int) -> str:
        """In one row of the terminal, with what is behind it."""
        room = max(self._bars.columns - behind - 1, 0)
        return fitted(line, min(max(_LINE_WIDTH - behind, cells(line)), room))

    def progress(self, value: Message, spent: timedelta) -> None:
        name = value.DESCRIPTOR.full_name
        if name == _MILESTONE:
            self._count(_text(value, "label"), _get(value, "step"), _get(value, "total_steps"), spent)
        elif name == _COUNTER:
            total = _get(value, "total") if value.HasField("total") else None
            self._count(_text(value, "message"), _get(value, "current"), total, spent)
        else:
            super().progress(value, spent)

    def _count(self, text: str, done: int, total: int | None, spent: timedelta) -> None:
        assert self._begin is not None, "there was an event"
        self._bars.count(text, done, total, self._begin, spent)

    def sent(self, progress: SendProgress) -> None:
        self._bars.bytes("sending", progress.sent, progress.total)

    def transfer(self, upload: UploadGrant, spent: timedelta) -> None:
        if upload.state is UploadState.OPEN:
            self._bars.bytes("sending", upload.committed_size, upload.total_size)
        else:
            self._bars.bytes_done()
            super().transfer(upload, spent)

    def outcome(self, state: State, spent: timedelta, error: LongshoreError | None, *, stopped: bool = False) -> None:
        self._bars.stop_clock(spent)
        self.close()
        super().outcome(state, spent, error, stopped=stopped)

    def close(self) -> None:
        self._bars.close()


def _get(message: Message, field: str) -> Any:
    return getattr(message, field)


def _text(message: Message, field: str) -> str:
    return str(_get(message, field))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
