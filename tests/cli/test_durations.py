"""Times that are given to verbs: those that nobody could wait for are refused before anything is asked."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from longshore_client.cli.app import cli

VERBS = {"call": ["Play"], "watch": ["x"], "wait": ["x"], "retry": ["x"]}
"""Those with a time, and what else they need."""


def test_every_verb_with_a_time_is_tested() -> None:
    found = set()
    with click.Context(cli) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            if any(isinstance(option.type, click.types.FloatParamType) for option in command.params):
                found.add(name)
    # Their numbers have bounds of their own, and tests of these.
    assert found - {"serve", "token"} == VERBS.keys()


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "-1", "1e999"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_time_that_never_ends_is_refused(verb: str, seconds: str) -> None:
    done = CliRunner().invoke(cli, [verb, *VERBS[verb], "--timeout", seconds, "--server", "localhost:1"])
    assert done.exit_code == 2
    assert "Invalid value for '--timeout': " in done.stderr
