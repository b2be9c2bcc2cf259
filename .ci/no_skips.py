"""A pytest plugin: a run in which anything was skipped has failed.

Elsewhere a test may skip itself, visibly, where its tool is missing; in continuous integration that would hide a hole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note tests that skipped themselves; an expected failure is not one of them."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note modules that skipped themselves as a whole."""
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a passing run into a failing one."""
    if _skipped and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why."""
    for nodeid in _skipped:
        terminalreporter.write_line(f"skipped, which is a failure here: {nodeid}", red=True)
