"""Prints the table of stories as it came out."""

from __future__ import annotations

import re

import pytest

from tests.polyglot.stories import CLIENTS, STORIES

_outcomes: dict[tuple[str, str], str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what came of a story: the worst of its phases."""
    found = re.search(r"polyglot/test_clients\.py::test_(\w+)(?:\[(\w+)\])?$", report.nodeid)
    if found and (report.when == "call" or not report.passed):
        # A test without a client is one of all at once.
        for client in [found[2]] if found[2] else CLIENTS:
            _outcomes[found[1], client] = report.outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One row a story, one column a client."""
    if not _outcomes:
        return
    terminalreporter.section("what clients of all languages did")
    terminalreporter.write_line(f"{'':22}{''.join(f'{name:>9}' for name in CLIENTS.values())}")
    for story in STORIES:
        cells = (_outcomes.get((story, client), "-") for client in CLIENTS)
        terminalreporter.write_line(f"{story:22}{''.join(f'{cell:>9}' for cell in cells)}")
