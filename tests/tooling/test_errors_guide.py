"""docs/guides/errors.md, done as it says: by the Python client, by stubs alone, by grpcurl and at the terminal."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import longshore_client as lc
from tests.tooling.test_guides_of_ends import GUIDES, Guide, blocks

CONTRACT, SERVICE, CLIENT, PRINTED, STUBS, PRINTED_BY_STUBS, GRPCURL, SHELL = blocks("errors.md")
STAND_IN = f"{sys.executable} {Path(__file__).with_name('grpcurl.py')}"


async def test_callers_are_told_what_it_says(tmp_path: Path) -> None:
    guide = Guide(tmp_path, CONTRACT, SERVICE)
    async with guide.served():
        assert await guide.run(CLIENT) == PRINTED.text
        assert await guide.run(STUBS) == PRINTED_BY_STUBS.text
        start, find = (
            command.replace("localhost:50051", "$LONGSHORE_SERVER").replace("grpcurl", STAND_IN, 1)
            for command in GRPCURL.commands
        )
        await guide.shell(start)
        found = await guide.shell(find)
        assert '"reason": "CARD_DECLINED"' in found
        assert '"tryAnotherCard": true' in found
        (command,) = SHELL.commands
        # That of the stubs, of the client and of grpcurl, which had each only one attempt.
        assert (await guide.shell(command)).count("The bank says no. (CARD_DECLINED)") == 3
        assert set(re.findall(r'"attempt": (\d)', await guide.shell(f"{command} --json"))) == {"1"}


async def test_what_may_help_is_tried_again_and_who_watches_sees_it(tmp_path: Path) -> None:
    guide = Guide(tmp_path, CONTRACT, SERVICE)
    async with guide.served():
        shown = await guide.shell('longshore call Charge -d \'{"card": "slow"}\' --watch --json')
    assert "receipt for slow" in shown
    assert "HANDLER_ERROR" in shown
    assert "secret.bank.example" not in shown


def test_its_table_names_the_errors_that_there_are() -> None:
    table = (GUIDES / "errors.md").read_text("utf-8").partition("|---|---|")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert all(issubclass(getattr(lc, name), lc.LongshoreError) for name in named)
    assert len(named) == 7
