"""The command line as a door: what each verb says to each kind of caller, and its exit code."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Coroutine
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from gates.v1.gates_pb2 import GatesResult

from longshore.v1 import operations_service_pb2 as pb
from longshore_client.cli.app import cli
from longshore_server.rpc.authorization import PROVIDER
from tests.server.auth.conftest import ALL, Guarded, Metadata
from tests.server.auth.table import CALLERS, OK, TYPES, VERBS, Answer, Caller, expected, wanted
from tests.server.auth.test_gates import crossed, metadata

__all__ = ["crossed"]

ENOUGH = {(), ALL, (PROVIDER,), *itertools.combinations(ALL, len(ALL) - 1)}
SOME = [caller for caller in CALLERS if caller.name != "twice" and caller.capabilities in ENOUGH]
"""Who sends one token at most, and may with it do nothing, everything, everything but one, or what providers do."""
SENTENCES = {
    "CREDENTIALS_MISSING": "The call carries no credentials: .*; give a token by --token or LONGSHORE_TOKEN",
    "CREDENTIALS_INVALID": "The token is not known here: .*; give a token by --token or LONGSHORE_TOKEN",
    "CREDENTIALS_EXPIRED": "The token expired at .*; give a token by --token or LONGSHORE_TOKEN",
    "OPERATION_NOT_FOUND": "There is no NAME: it never existed, or it was deleted; `longshore ls` shows what exists",
    "CAPABILITY_MISSING": r"Only callers with the capability longshore\.(provider|admin) may do this\. "
    r"\(CAPABILITY_MISSING\)",
    "NOT_THE_OWNER": r"uploads/\S+ belongs to whoever started \S+\. \(NOT_THE_OWNER\)",
    "NAME_IN_USE": r"operations/own-called is taken: start another\. \(NAME_IN_USE\)",
}
"""What is said of each reason, as patterns."""


async def until_sent(request: Any, op: Any) -> GatesResult:
    """A handler: waits for the bytes that its contract does not declare."""
    while (upload := op._source.record.upload) is None or upload.ended is None:
        await op._source.changed()
    return GatesResult()


DOES = {"call": "start", "observe": "see", "cancel": "cancel or delete", "control": "signal"}


async def run(guarded: Guarded, sent: Metadata, *arguments: str) -> Result:
    """Run a command beside the server, on its loop: a second loop in the process would disturb gRPC."""
    token = sent[0][1].removeprefix("Bearer ") if sent else ""
    loop = asyncio.get_running_loop()

    def here(coroutine: Coroutine[Any, Any, Any]) -> Any:
        context = click.get_current_context()  # of this thread only

        async def within() -> Any:
            with context.scope(cleanup=False):
                return await coroutine

        return asyncio.run_coroutine_threadsafe(within(), loop).result()

    environment = {"LONGSHORE_SERVER": guarded.harness.address, "LONGSHORE_TOKEN": token}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "run", here)
        return await asyncio.to_thread(CliRunner().invoke, cli, list(arguments), env=environment)


def sentence(answer: Answer, type: str, name: str) -> str:
    """What a refusal says, as a pattern."""
    _, reason, gate = answer
    if not gate:
        return SENTENCES[reason].replace("NAME:", f"{name}:")
    only = f"only callers with {' and '.join(sorted(TYPES[type].gates[gate] or ()))}"
    return re.escape(f"gates.v1.GatesService/{type} lets {only} {DOES[gate]} its operations. (CAPABILITY_MISSING)")


def check_list(verb: str, shown: Result, caller: Caller, names: dict[str, str]) -> None:
    """`ls` and `count` hold what the caller may see, and nothing else."""
    visible = {type for type in names if expected(caller, TYPES[type], (), exists=True) == OK}
    for type, name in names.items():
        assert ((name if verb == "ls" else f"GatesService/{type} ") in shown.stdout) == (type in visible), caller
    assert shown.stderr == ("" if visible else "no operations\n")


@pytest.mark.parametrize("verb", VERBS)
async def test_every_caller_at_every_verb(verb: str, crossed: Guarded) -> None:
    owner = crossed.token("owner", *ALL)
    row, arguments, types, then, says = VERBS[verb]
    count = itertools.count()
    if verb == "upload":
        crossed.handlers.handler = until_sent

    async def existing(type: str) -> str:
        begun = await crossed.begin(type, owner, key=f"existing-{next(count)}", done=not row.live)
        if not row.live:
            await crossed.operations.Wait(pb.WaitRequest(name=begun.name), metadata=owner)
        if then is not None:
            await (crossed.offer(begun, 1) if then.about == "download" else crossed.take(begun))
        return f"operations/{begun.uid}"

    names = {type: await existing(type) for type in types}
    wrong, seen = [], set()
    for type in types:
        for caller in SOME:
            done = await run(crossed, metadata(crossed, caller), *arguments(type, names[type]))
            answer = wanted(caller, row, type)
            if answer == OK and then is not None:
                answer = wanted(caller, then, type)
            seen.add(answer)
            if answer == OK:
                right = (done.exit_code == 0 and "error" not in done.stderr) or bool(
                    says and re.match(says, done.stderr)
                )
            elif answer[2] and TYPES[type].gates[answer[2]] is None:
                # Who may see the operation reads in the catalogue that it takes no signals.
                right = done.exit_code == 2 and "'poke' is no signal of" in done.stderr
            else:
                said = re.fullmatch(f"error: {sentence(answer, type, names[type])}\n", done.stderr)
                right = (done.exit_code, done.stdout) == (6, "") and said is not None
            if not right:
                wrong.append((type, caller, answer, done.exit_code, done.stdout, done.stderr))
            if answer == OK and verb in ("ls", "count"):
                check_list(verb, done, caller, names)
            if answer == OK and verb in ("delete", "upload"):
                names[type] = await existing(type)
    assert not wrong, wrong[:10]
    assert {OK[0], "UNAUTHENTICATED"} <= {code for code, _, _ in seen}
    assert row.gates is None or {"NOT_FOUND", "PERMISSION_DENIED"} & {code for code, _, _ in seen}
