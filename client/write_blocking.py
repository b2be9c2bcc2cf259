"""Writes the blocking client's classes from those of the asyncio client, so that there is nothing to keep in step.

python client/write_blocking.py            write
python client/write_blocking.py --check    fail when the file is not what would be written

A method that is awaited becomes one that blocks, an asynchronous generator becomes a plain one, and whatever comes out
is wrapped in turn. Signatures and docstrings are the original's.
"""

# ruff: noqa: INP001
from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent / "longshore_client"

HANDLES = {
    "operation.py": ("OperationHandle",),
    "upload.py": ("PreparedUpload", "PreparedTransfer", "Upload"),
    "method.py": ("OperationMethod", "UploadMethod"),
}
"""What callers hold, by module, in the order in which they need each other."""
CLIENTS = {"recurring.py": ("RecurringClient",), "debounce.py": ("DebounceClient",), "task.py": ("TaskClient",)}
"""What callers make, of a channel."""
PARENTS = ("instances.py",)
"""Modules of classes that those derive from."""
WRAPPED = {name for names in HANDLES.values() for name in names}
LEFT_OUT = {"abort", "abort_timeout"}
"""Arguments for an event of asyncio; a thread that wants to end an operation cancels it by its handle."""

HANDLES_HEADER = '''"""The asyncio client's handles, for callers that block.

Written by client/write_blocking.py. Do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, cast

from typing_extensions import TypeVar

from longshore_client import method, operation, upload
from longshore_client.blocking.portal import Blocking
from longshore_client.state import OutputT, ProgressT, ResultT, SignalT, State

if TYPE_CHECKING:
    import os
    from collections import Counter
    from collections.abc import Callable, Generator, Iterable, Mapping
    from typing import IO

    from longshore_client.events import Event, EventBase
    from longshore_client.grants import DownloadGrant, ReceiveProgress, SendProgress, UploadGrant
    from longshore_client.operation import SentSignal
    from longshore_client.snapshot import Snapshot
    from longshore_client.sources import Source

InputT = TypeVar("InputT")
HandleT = TypeVar(
    "HandleT", bound="OperationHandle[Any, Any, Any, Any]", default="OperationHandle[ProgressT, OutputT, ResultT]"
)
'''


CLIENTS_HEADER = '''"""The asyncio client's clients of recurrings, debounces and tasks, for callers that block.

Written by client/write_blocking.py. Do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from longshore_client import debounce, recurring, task
from longshore_client.blocking.channel import Channel
from longshore_client.blocking.portal import Blocking
from longshore_client.instance_values import ValueT
from longshore_client.instances import WAIT

if TYPE_CHECKING:
    from collections.abc import Generator

    from longshore_client.debounce import DebounceCleared, DebounceFlushed, DebounceSnapshot, EventAdded
    from longshore_client.instance_values import Declared
    from longshore_client.instances import InstanceChange, InstanceState, InstanceStatus
    from longshore_client.recurring import RecurringSnapshot, RecurringStarted, RecurringTriggered
    from longshore_client.task import EventSent, TaskSnapshot, TaskTriggered

EventT = TypeVar("EventT", default=Any)
'''

MODULES: Mapping[str, tuple[str, Mapping[str, Sequence[str]]]] = {
    "handles.py": (HANDLES_HEADER, HANDLES),
    "instances.py": (CLIENTS_HEADER, CLIENTS),
}


def main() -> int:
    """Write the modules, or compare them; the exit code is 1 when one is not current."""
    stale = False
    for name, (header, sources) in MODULES.items():
        target = PACKAGE / "blocking" / name
        text = formatted("\n\n".join([header, *classes(sources)]), target)
        if text == (target.read_text("utf-8") if target.exists() else ""):
            continue
        stale = True
        if "--check" not in sys.argv[1:]:
            target.write_text(text, "utf-8")
            print(f"written: {target.relative_to(PACKAGE.parent.parent)}")
    if stale and "--check" in sys.argv[1:]:
        print("The blocking client is not current: run `make generate` and commit the result.", file=sys.stderr)
        return 1
    return 0


def formatted(text: str, target: Path) -> str:
    """A module in the project's format."""
    command = [str(Path(sys.executable).with_name("ruff")), "format", "--stdin-filename", str(target), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def classes(sources: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The text of each class."""
    parents = {name: node for module in PARENTS for name, node in defined(module).items()}
    for module, names in sources.items():
        known = {**parents, **defined(module)}
        for name in names:
            node = known[name]
            variables = ", ".join(type_variables(node))
            inner = variables.replace("HandleT", "Any")
            source = f"{module.removesuffix('.py')}.{name}"
            texts = [text for member in [*inherited(node, known), *node.body] for text in converted(member)]
            if sources is CLIENTS:
                texts.insert(0, constructor(node, source))
            yield "\n".join(
                [
                    f"class {name}(Blocking[{source}[{inner}]], Generic[{variables}]):",
                    indented(quoted(docstring(node))),
                    *map(indented, texts),
                ]
            )


def defined(module: str) -> dict[str, ast.ClassDef]:
    """The classes of a module, by name."""
    tree = ast.parse((PACKAGE / module).read_text("utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def subscripted(node: ast.ClassDef) -> Iterator[tuple[str, list[ast.expr]]]:
    """The bases of a class that have arguments, by name, with these."""
    for base in node.bases:
        if isinstance(base, ast.Subscript) and isinstance(base.value, ast.Name):
            yield base.value.id, base.slice.elts if isinstance(base.slice, ast.Tuple) else [base.slice]


def type_variables(node: ast.ClassDef) -> list[str]:
    """The type variables of a class: what `Generic` says, or else those among the arguments of its base."""
    bases = dict(subscripted(node))
    given = bases.get("Generic") or next(iter(bases.values()))
    return [name for name in map(ast.unparse, given) if name.endswith("T")]


def inherited(node: ast.ClassDef, known: Mapping[str, ast.ClassDef]) -> list[ast.stmt]:
    """The members of the class that a class derives from, with what it says for that one's type variables."""
    for name, given in subscripted(node):
        if name in known:
            variables = dict(zip(type_variables(known[name]), given, strict=True))
            return [Said(variables).visit(copy.deepcopy(member)) for member in known[name].body]
    return []


class Said(ast.NodeTransformer):
    """Writes for type variables what is said for them."""

    def __init__(self, variables: Mapping[str, ast.expr]) -> None:
        self._variables = variables

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._variables.get(node.id, node)


def constructor(node: ast.ClassDef, source: str) -> str:
    """How callers make one: as its original, of the channel that blocks."""
    (member,) = (member for member in node.body if isinstance(member, ast.FunctionDef) and member.name == "__init__")
    _, *taken = arguments(member)
    call = ", ".join(["channel.inner", *map(passed, taken)])
    body = f"channel = Channel.check(channel)\nsuper().__init__(channel.portal, {source}({call}))\n"
    return f"def __init__({signature(member)}) -> None:\n{indented(body)}"


def converted(member: ast.stmt) -> Iterator[str]:
    """The texts of what becomes of one member of a class."""
    if not isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    if member.name == "__init__":
        # The attributes that callers may read.
        for node in ast.walk(member):
            match node:
                case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=kind) if not name.startswith("_"):
                    said = attribute_doc(member, node)
                    yield function(name, "self", ast.unparse(kind), said, f"self._inner.{name}", property=True)
        return
    if member.name.startswith("_") and member.name != "__call__":
        return
    assert member.returns is not None
    returns, stream = ast.unparse(member.returns), False
    if found := re.fullmatch(r"AsyncGenerator\[(.*), None\]", returns):
        returns, stream = f"Generator[{found[1]}, None, None]", True
    is_property = any(ast.unparse(decorator) == "property" for decorator in member.decorator_list)
    taken = [argument for argument in arguments(member) if argument.arg not in LEFT_OUT]
    called = "" if member.name == "__call__" else f".{member.name}"
    inner, given = f"self._inner{called}", [passed(argument) for argument in taken]
    awaited = isinstance(member, ast.AsyncFunctionDef) and not stream
    if awaited:
        call = f"self._portal.run({', '.join([inner, *given])})"
    else:
        call = inner if is_property else f"{inner}({', '.join(given)})"
        call = f"self._portal.iterate({call})" if stream else call
    yield function(
        member.name, signature(member), returns, docstring(member), call, property=is_property,
        itself=returns == "Self" and not awaited,
    )  # fmt: skip


def function(
    name: str, signature: str, returns: str, said: str, call: str, *, property: bool = False, itself: bool = False
) -> str:
    """One method; `itself`: it changes what it belongs to, and returns that."""
    kind = returns.partition("[")[0]
    if itself:
        body = f"{call}\nreturn self"
    elif returns == "None":
        body = call
    elif returns == "Self":
        body = f"return type(self)(self._portal, {call})"
    elif returns == "HandleT":
        body = f'return cast("HandleT", OperationHandle(self._portal, {call}))'
    elif kind in WRAPPED:
        body = f"return {kind}(self._portal, {call})"
    else:
        body = f"return {call}"
    decorator = "@property\n" if property else ""
    return f"{decorator}def {name}({signature}) -> {returns}:\n{indented(quoted(said))}\n{indented(body)}\n"


def arguments(member: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """All arguments but `self`."""
    return [*member.args.args[1:], *member.args.kwonlyargs]


def passed(argument: ast.arg) -> str:
    """How an argument is handed on: by name, and a callback as one that may block."""
    assert argument.annotation is not None
    name, kind = argument.arg, ast.unparse(argument.annotation)
    if not kind.startswith("Callback["):
        return f"{name}={name}"
    return f"{name}=" + (f"{name} and " if kind.endswith("| None") else "") + f"self._portal.callback({name})"


def signature(member: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The arguments as they are declared, with callbacks that are plain functions."""
    args = member.args
    kept = [
        (argument, default)
        for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        if argument.arg not in LEFT_OUT
    ]
    args.kwonlyargs, args.kw_defaults = [pair[0] for pair in kept], [pair[1] for pair in kept]
    return re.sub(r"Callback\[(\w+)\]", r"Callable[[\1], object]", ast.unparse(args))


def docstring(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """What an element says of itself, as it is for callers that block."""
    said = ast.get_docstring(node) or ""
    for name in LEFT_OUT:
        said = re.sub(rf"^    {name}: .*\n(?:     .*\n)*", "", said, flags=re.MULTILINE)
        said = re.sub(rf"^    \w+: [^\n]*`{name}`.*\n", "", said, flags=re.MULTILINE)
    said = said.replace("; with reason ABORTED if it had not settled in time", "")
    said = re.sub(r"; a coroutine function is awaited(?: before the next)?", "; in a thread of the client's", said)
    return re.sub(r"\bawait ", "", said.replace(", or coroutine function,", ""))


def attribute_doc(member: ast.FunctionDef | ast.AsyncFunctionDef, assigned: ast.AnnAssign) -> str:
    """The text below an assignment."""
    following = member.body[member.body.index(assigned) + 1]
    match following:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text
    return ""


def quoted(said: str) -> str:
    return f'"""{said}\n"""' if "\n" in said else f'"""{said}"""'


def indented(text: str) -> str:
    return textwrap.indent(text, "    ")


if __name__ == "__main__":
    sys.exit(main())
