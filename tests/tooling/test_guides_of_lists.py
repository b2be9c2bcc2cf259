"""The guides about lists and deploys, done as they say: compiled, served, called, and compared."""

from __future__ import annotations

from pathlib import Path

from tests.tooling.test_guides_of_ends import Guide, blocks


async def test_the_guide_to_lists_prints_what_it_says(tmp_path: Path) -> None:
    contract, service, client, printed, shell = blocks("lists.md")
    guide = Guide(tmp_path, contract, service)
    async with guide.served():
        assert await guide.run(client) == printed.text
        for command in shell.commands:
            assert await guide.shell(command)


async def test_a_deploy_is_refused_as_the_guide_says_and_goes_on_when_it_is_right(tmp_path: Path) -> None:
    contract, service, call, change, refusal, right = blocks("deploys.md")
    guide = Guide(tmp_path, contract, service)
    async with guide.served():
        (begin,) = call.commands
        name = (await guide.shell(begin)).strip()
    for command in change.commands:
        await guide.shell(command)
    serve = "longshore serve service.py:server --listen 127.0.0.1:0 2>&1 || true"
    assert await guide.shell(serve) == refusal.text
    for command in right.commands:
        await guide.shell(command)
    async with guide.served():
        (row,) = (await guide.shell("longshore ls --filter state=RUNNING")).splitlines()[1:]
        assert row.startswith(name)
