"""Where `.proto` files define what, read from their text: it is needed for files that cannot be compiled."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"|(?P<word>\.?[A-Za-z_][\w.]*|-?\d[\w.]*)|(?P<sign>[^\s\w])",
    re.DOTALL,
)
"""What a file consists of: comments, quoted texts, words with their dots and numbers, single signs."""
_BLOCKS = ("message", "enum", "service", "oneof", "extend")


class Definition(NamedTuple):
    """What a full name stands for."""

    kind: str
    """`message`, `enum`, `service`, or, of an option, the message that it extends: `google.protobuf.MethodOptions`."""
    file: str
    """Where it is defined, as imports name it."""
    members: dict[str, str]
    """The fields of a message, each with its type as it is written there; the values of an enum, with nothing; of an
    option itself, with its type."""


class Definitions:
    """Every message, enum, service and option of some files, by full name.

    Args:
        files: Where each file is, by the name that imports give it. Of two that define the same the first one counts.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files
        self.by_name: dict[str, Definition] = {}
        for name, path in files.items():
            for full_name, definition in _read(name, path.read_text(encoding="utf-8", errors="replace")):
                self.by_name.setdefault(full_name, definition)

    def types(self) -> dict[str, Definition]:
        """The messages and enums."""
        return {name: found for name, found in self.by_name.items() if found.kind in ("message", "enum")}

    def options(self) -> dict[str, Definition]:
        """The options, which extend messages of the compiler."""
        return {name: found for name, found in self.by_name.items() if found.kind not in _BLOCKS}

    def enums_of(self, field: str) -> dict[str, Definition]:
        """The enums that fields of a name hold, whatever message has such a field."""
        found = {}
        for scope, definition in self.by_name.items():
            type = definition.members.get(field) if definition.kind == "message" else None
            if type and (name := self._resolve(type, scope)) and self.by_name[name].kind == "enum":
                found[name] = self.by_name[name]
        return found

    def statement(self, name: str) -> str:
        """The import that brings a message, an enum or an option of a full name; empty: none is known."""
        if name.startswith("buf.validate."):
            return 'import "buf/validate/validate.proto";'  # comes with a package that has no such file
        found = self.by_name.get(name)
        return "" if found is None else f'import "{found.file}";'

    def option_type(self, option: str, fields: str) -> str | None:
        """The full name of the message that has the last of an option's fields, which are parted by dots; None: it is
        not known."""
        found = self.by_name.get(option)
        path = [option.rpartition(".")[2], *fields.split(".")[:-1]]
        scope: str | None = option.rpartition(".")[0]
        for field in path:
            type = found.members.get(field) if found is not None else None
            scope = self._resolve(type, scope or "") if type else None
            found = self.by_name.get(scope or "")
        return scope

    def _resolve(self, name: str, scope: str) -> str | None:
        """The full name of what a name means in a message: that of the innermost scope which has it."""
        while scope:
            if f"{scope}.{name}" in self.by_name:
                return f"{scope}.{name}"
            scope = scope.rpartition(".")[0]
        return name.removeprefix(".") if name.removeprefix(".") in self.by_name else None


def _read(file: str, text: str) -> Iterator[tuple[str, Definition]]:
    words = [match for match in TOKEN.finditer(text) if match.lastgroup != "comment"]
    package = ""
    stack: list[tuple[str, str, Definition | None]] = []
    opening: tuple[str, str, Definition | None] = ("", "", None)
    for position, match in enumerate(words):
        word = match[0]
        kind, scope, into = stack[-1] if stack else ("", package, None)
        after = words[position + 1][0] if position + 1 < len(words) else ""
        if word == "{":
            stack.append(opening if opening[0] else ("", scope, None))
            opening = ("", "", None)
        elif word == "}":
            del stack[-1:]
        elif word == "package" and not stack and match.lastgroup == "word":
            package = after
        elif word in _BLOCKS and position + 2 < len(words) and words[position + 2][0] == "{":
            if word == "oneof":
                opening = (word, scope, into)
            elif word == "extend":
                opening = (after.removeprefix("."), scope, None)
            else:
                made = Definition(word, file, {})
                opening = (word, f"{scope}.{after}".lstrip("."), made)
                yield opening[1], made
        elif after == "=" and position + 2 < len(words) and re.fullmatch(r"-?\d\w*", words[position + 2][0]):
            before = words[position - 1][0] if position else ""
            if into is not None:
                into.members[word] = "" if kind == "enum" else before
            elif kind:
                yield f"{scope}.{word}".lstrip("."), Definition(kind, file, {word: before})
