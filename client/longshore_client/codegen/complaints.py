"""What protoc says about a contract, as one sentence: where, what is wrong, and what to do.

The first mistake of a run is the one that counts; many of those after it follow from it. What this module does not know
is said in protoc's words, at the same place.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longshore_client.codegen.definitions import TOKEN, Definitions
from longshore_client.codegen.names import snake_case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_PLACED = re.compile(r"(?P<file>.+?\.proto):(?P<line>\d+):(?P<column>\d+): (?!warning: )(?P<words>.+)")
_OF_A_FILE = re.compile(r"(?P<file>[^ ]+\.proto): (?!File not found)(?P<words>.+)")
_SCALARS = (
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
    "sfixed64", "bool", "string", "bytes",
)  # fmt: skip
_STATEMENTS = ("syntax", "edition", "package", "import", "option", "message", "enum", "service", "extend")
_NEEDED = {
    "integer": "a whole number", "string": "a text between quotes", "integer or identifier": "a value without quotes",
    "double": "a number", "identifier": "a name",
}  # fmt: skip
_OFTEN = (
    "google/protobuf/timestamp", "google/protobuf/duration", "google/protobuf/empty", "google/protobuf/any",
    "google/protobuf/wrappers", "google/protobuf/struct", "google/longrunning/", "longshore/v1/",
)  # fmt: skip
"""Where the messages are that contracts name without their package, by how the files begin."""
_RULES_OF_FIELDS = ("buf.validate.field", "buf.validate.message", "buf.validate.oneof")
"""These come with a package that has no file of theirs."""
_TAB = 8
"""To protoc the next column after a tab is behind a multiple of this."""


def explain(said: str, files: Mapping[str, Path]) -> str:
    """Say what is wrong in one sentence.

    Args:
        said: What protoc has written.
        files: The files that there are, by the names that imports give them.

    Returns:
        `FILE:LINE:COLUMN: ` and the sentence, or what protoc has written where it names no place.
    """
    found = [match for line in said.splitlines() if (match := _PLACED.fullmatch(line))]
    if not found:
        whole = next((match for line in said.splitlines() if (match := _OF_A_FILE.fullmatch(line))), None)
        if whole is None:
            return said
        return f"{shown(files.get(whole['file'], Path(whole['file'])))}: {whole['words'].rstrip('.')}"
    first = found[0]
    notes = [other["words"] for other in found[1:] if other.group("file", "line", "column") == first.groups()[:3]]
    path = Path(first["file"])
    if not path.is_file():
        return said
    place = _place(path, int(first["line"]), int(first["column"]))
    mistake = _Mistake(path, place, first["words"], notes, Definitions(files))
    sentence = mistake.explain()
    line = mistake.text.count("\n", 0, mistake.place) + 1
    column = mistake.place - (mistake.text.rfind("\n", 0, mistake.place) + 1) + 1
    return f"{shown(path)}:{line}:{column}: {sentence}"


def shown(path: Path) -> str:
    """Return a path as it is seen from the current folder, if it is below that."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def did_you_mean(wrong: str, known: Iterable[str], otherwise: str) -> str:
    """Return the end of a sentence: which of the known names may be meant, or what else is to be done."""
    close = get_close_matches(wrong, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; {otherwise}" if otherwise else ""


def _place(path: Path, line: int, column: int) -> int:
    """The position in a file's text of what protoc means: it counts bytes, and tabs by their width."""
    lines = path.read_bytes().split(b"\n")
    content = lines[line - 1] if line <= len(lines) else b""
    at = 1
    length = 0
    while length < len(content) and at < column:
        at = at + _TAB - (at - 1) % _TAB if content[length : length + 1] == b"\t" else at + 1
        length += 1
    before = b"".join(part + b"\n" for part in lines[: line - 1])
    return len((before + content[:length]).decode(errors="replace"))


class _Mistake:
    """One mistake; `place` is moved to where it is if protoc only knows about where."""

    def __init__(self, path: Path, place: int, words: str, notes: list[str], definitions: Definitions) -> None:
        self.path = path
        self.text = path.read_bytes().decode(errors="replace")
        self.place = place
        self.words = words
        self.notes = notes
        self.definitions = definitions

    def explain(self) -> str:
        """Say it."""
        for rule in _RULES:
            match = rule.pattern.fullmatch(self.words)
            if match is not None:
                return rule.say if isinstance(rule.say, str) else rule.say(self, *match.groups())
        return self.words.rstrip(".")

    @property
    def here(self) -> str:
        """The word or sign that stands at the place; empty: the end of the file."""
        match = TOKEN.search(self.text, self.place)
        return "" if match is None else match[0].partition("\n")[0]

    # What the compiler's parser says.

    def statement(self, *_: str) -> str:
        if self.here == "#":
            return "a comment begins with //, and not with #"
        rest = did_you_mean(self.here, _STATEMENTS, f"a statement begins with one of {', '.join(_STATEMENTS)}")
        return f'"{self.here}" begins no statement{rest}'

    def expected(self, wanted: str) -> str:
        if get_close_matches(self.here, [wanted]):
            return f'"{self.here}" is not known here; did you mean "{wanted}"?'
        return f'"{wanted}" is needed here, and not "{self.here}"' if self.here else f'"{wanted}" is missing at the end'

    def missing(self, what: str) -> str:
        return f'the {what} is missing here, before "{self.here}"' if self.here else f"the {what} is missing at the end"

    def label(self) -> str:
        if re.search(r"^\s*(syntax|edition)\b", self.text, re.MULTILINE) is None:
            self.place = 0
            return 'the file does not say which syntax it has: begin it with syntax = "proto3";'
        return self.words.rstrip(".")

    def end(self, what: str) -> str:
        return f'the file ends within a {what}: a "}}" is missing'

    def no_text(self, *_: str) -> str:
        try:
            self.path.read_bytes().decode()
        except UnicodeDecodeError:
            return "the file is not UTF-8: save it as such"
        sign = self.text[self.place : self.place + 1]
        plain = '; write plain quotes, "' if sign in "“”„‟«»" else ""
        return f"{sign!r} may stand in comments and texts only{plain}"

    def no_number(self) -> str:
        if self.here == ";":
            return "the field has no number: give it one that its message does not have, for example = 1"
        return f'"=" and the number of the field are needed here, and not "{self.here}"'

    def small_number(self) -> str:
        free = next((found[1] for note in self.notes if (found := re.fullmatch(r"Suggested .*: (.+)", note))), "")
        return f"the number of a field is at least 1{f'; free is {free}' if free else ''}"

    def syntax(self, name: str) -> str:
        return f'there is no syntax "{name}"; write syntax = "proto3";'

    # What it says when it resolves names.

    def twice(self, name: str, scope: str) -> str:
        for note in self.notes:
            if (found := re.search(r'not just within "(\w+)"', note)) is not None:
                better = f"{snake_case(found[1]).upper()}_{name}"
                return f'"{name}" is a value of another enum in "{scope}"; call this one "{better}"'
        return f'"{name}" is defined in "{scope}" already; give one of the two another name'

    def unknown_type(self, name: str) -> str:
        types = self.definitions.types()
        package = re.search(r"^\s*package\s+([\w.]+)", self.text, re.MULTILINE)
        for full in (f"{package[1]}.{name}" if package is not None else name, name):
            if full in types and not self._is_own(types[full].file):
                return f'"{full}" is not imported; add {self.definitions.statement(full)}'
        if name.startswith("buf.validate.") and not self._has_rules:
            return f'"{name}" is not imported; add {self.definitions.statement(name)}'
        often = [(types[full].file.startswith(begin), full) for begin in _OFTEN for full in types]
        meant = next((full for fits, full in often if fits and full.endswith(f".{name}")), None)
        if meant is not None:
            statement = self.definitions.statement(meant)
            rest = "" if statement in self.text else f", and add {statement}"
            return f'there is no type "{name}"; write {meant}{rest}'
        known = [*_SCALARS, *types, *(full.rpartition(".")[2] for full in types if self._is_own(types[full].file))]
        return f'there is no type "{name}"{did_you_mean(name, known, "define it, or import the file that does")}'

    @property
    def _has_rules(self) -> bool:
        return '"buf/validate/validate.proto"' in self.text

    def _is_own(self, file: str) -> bool:
        return self.definitions.files[file].resolve() == self.path.resolve()

    def not_imported(self, name: str, file: str) -> str:
        return f'"{name}" is not imported; add import "{file}";'

    def no_message(self, name: str | None = None) -> str:
        return f'"{name or self.here}" is no message; write one that holds it'

    def no_file(self, name: str) -> str:
        known = [file for file in self.definitions.files if self.definitions.files[file] != self.path]
        ends = [file for file in known if file.endswith(f"/{name}") or name.endswith(f"/{file}")]
        # Of several it is hardly one of the many that came with a package.
        close = sorted(ends, key=lambda file: file.startswith("google/")) or get_close_matches(name, known, 1, 0.8)
        meant = f'did you mean "{close[0]}"?' if close else "give its path from the folder that holds all contracts"
        return f'there is no file "{name}"; {meant}'

    def circle(self, path: str) -> str:
        names = path.split(" -> ")
        if len(set(names)) == 1:
            return "the file imports itself; leave this out"
        return f"files import each other, {path}: move what they share to another one"

    # What it says of options.

    def unknown_option(self, name: str, *_: str) -> str:
        plain = re.match(r"[\w.]+", self.text[self.place :])
        options = self.definitions.options()
        if plain is not None and plain[0] in options:
            return f"an option that a file defines stands in parentheses; write ({plain[0]})"
        found = re.fullmatch(r"\(\.?([\w.]+)\)(?:\.([\w.]+))?", name)
        if found is None:
            parentheses = "one that a file defines stands in parentheses, as (longshore.v1.operation)"
            return f'there is no option "{name}"; {parentheses}'
        full, fields = found.groups()
        statement = self.definitions.statement(full)
        if fields:
            message = self.definitions.option_type(full, fields)
            last = fields.rpartition(".")[2]
            return self.unknown_field(message, last) if message else f'the option ({full}) has no field "{fields}"'
        if full.startswith("buf.validate.") and self._has_rules:
            return f"there is no option ({full}){did_you_mean(full, _RULES_OF_FIELDS, '')}"
        if statement:
            return f"the option ({full}) is not imported; add {statement}"
        return f"there is no option ({full}){did_you_mean(full, options, 'import the file that defines it')}"

    def wrong_place(self, name: str, holder: str) -> str:
        full = name.strip("().")
        kind = self.definitions.by_name[full].kind if full in self.definitions.by_name else ""
        right = kind.rpartition(".")[2].removesuffix("Options").lower()
        here = holder.removesuffix("Options").lower()
        return f"({full}) is no option of a {here}{f'; it is one of a {right}' if right else ''}"

    def unknown_field(self, message: str, name: str) -> str:
        self._find(name)
        found = self.definitions.by_name.get(message)
        members = found.members if found is not None else {}
        every = f"it has {', '.join(members)}" if members else ""
        return f'{message} has no field "{name}"{did_you_mean(name, members, every)}'

    def unknown_value(self, value: str, field: str) -> str:
        self._find(value)
        enums = self.definitions.enums_of(field)
        members = [member for found in enums.values() for member in found.members]
        return f'{field} cannot be "{value}"{_which(value, members)}'

    def unknown_member(self, enum: str, value: str, option: str) -> str:
        found = self.definitions.by_name.get(enum)
        return f'{option.rpartition(".")[2]} cannot be "{value}"{_which(value, found.members if found else ())}'

    def no_truth(self, field: str, value: str) -> str:
        self._find(value)
        return f'{field} cannot be "{value}"; write true or false'

    def wrong_value(self, needed: str, value: str) -> str:
        field = self._find(value)
        if needed == "{":
            needed = "a message between braces"
            if self._type_of(field) == "google.protobuf.Duration":
                needed += ", for example { seconds: 60 }"
        needed = _NEEDED.get(needed, needed)
        return f"{field} must be {needed}, and not {value}" if field else f"{needed} is needed, and not {value}"

    def no_colon(self, value: str) -> str:
        self._find(value)
        return (
            f'a ":" is needed between the name of a field and its value, before {value}'
            if value != "="
            else ('within braces a field and its value are parted by ":", and not by "="')
        )

    def out_of_range(self, value: str) -> str:
        field = self._find(value)
        if field and self._type_of(field) == "bool":
            return f"{field} cannot be {value}; write true or false"
        return f"{f'{field} cannot be ' if field else ''}{value}, which is out of range"

    def repeated(self, field: str) -> str:
        self._find(field, last=True)
        return f"{field} is set already; set it once"

    def either(self, field: str, other: str) -> str:
        self._find(field, last=True)
        return f"{field} and {other} exclude each other; leave one out"

    def _type_of(self, field: str) -> str:
        """The type of fields of a name, if all that there are have one type."""
        types = {found.members[field] for found in self.definitions.by_name.values() if field in found.members}
        return types.pop() if len(types) == 1 else ""

    def _find(self, wanted: str, *, last: bool = False) -> str:
        """Go to a word within the braces that protoc has named as a whole, unless it stands there more than once.

        Returns the name of the field before it, if it is a value; empty: it stands elsewhere, or is a name.
        """
        depth = 0
        before: list[re.Match[str]] = []
        found: list[tuple[re.Match[str], str]] = []
        for match in TOKEN.finditer(self.text, self.place):
            if match.lastgroup == "comment":
                continue
            depth += (match[0] == "{") - (match[0] == "}")
            if match[0] == wanted or match[0].strip("\"'") == wanted:
                names = [earlier[0] for earlier in before if earlier.lastgroup == "word"]
                found.append((match, names[-1] if names else ""))
            before = [*before[-2:], match]
            if depth == 0:
                break
        if found and (last or len(found) == 1):
            self.place = found[-1][0].start()
            return found[-1][1]
        return ""


def _which(value: str, members: Iterable[str]) -> str:
    known = list(members)
    longer = [name for name in known if name.endswith(f"_{value.upper()}")]
    return (
        f'; did you mean "{longer[0]}"?'
        if longer
        else did_you_mean(value, known, f"it can be {', '.join(known)}" if known else "")
    )


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    say: Callable[..., str] | str
    """What is said: always the same, or by a mistake and the groups of the pattern."""


_IN_OPTION = r'Error while parsing option value for "[^"]*": '
_RULES = tuple(
    _Rule(re.compile(pattern), say)
    for pattern, say in (
        (r'Expected ";"\.', 'a ";" is missing before this, or a bracket further up is not closed'),
        (r"Expected top-level statement .*", _Mistake.statement),
        (r'Expected "([^"]+)"\.', _Mistake.expected),
        (r"Expected a string naming the file to import\.", "the name of a file to import stands between quotes"),
        (r'Expected "required", "optional", or "repeated"\.', _Mistake.label),
        (r"Reached end of input in (\w+).*", _Mistake.end),
        (r"Multiline strings are not allowed.*", "a text does not end on the line it begins on: close its quotes"),
        (r"Interpreting non ascii codepoint.*|Invalid control characters.*", _Mistake.no_text),
        (r"Missing field number\.", _Mistake.no_number),
        (r"Expected ((?:\w+ )?(?:name|number|value|identifier))\.", _Mistake.missing),
        (
            r"End-of-file inside block comment\.",
            "a comment that begins with /* does not end; close it with */",
        ),
        (r"Field numbers must be positive integers\.", _Mistake.small_number),
        (r'Unrecognized syntax identifier "([^"]*)".*', _Mistake.syntax),
        (r"Required fields are not allowed in proto3\.", 'proto3 has no required fields; leave "required" out'),
        (
            r"The first enum value must be zero .*",
            "the first value of an enum must be 0: put one before it, for example UNSPECIFIED = 0",
        ),
        (r'"([^"]+)" is already defined in "([^"]+)"\.', _Mistake.twice),
        (r'"([^"]+)" is not defined\.', _Mistake.unknown_type),
        (r'"([^"]+)" is resolved to "[^"]+", which is not defined\..*', _Mistake.unknown_type),
        (r'"([^"]+)" seems to be defined in "([^"]+)", which is not imported.*', _Mistake.not_imported),
        (r"Expected message type\.", _Mistake.no_message),
        (r'"([^"]+)" is not a message type\.', _Mistake.no_message),
        (r'Import "([^"]+)" was not found or had errors\.', _Mistake.no_file),
        (r"File recursively imports itself: (.*)", _Mistake.circle),
        (r'Option "([^"]+)" unknown\..*', _Mistake.unknown_option),
        (r'Option field "([^"]+)" is not a field or extension of message "([^"]+)"\.', _Mistake.wrong_place),
        (r'Enum type "([^"]+)" has no value named "([^"]+)" for option "([^"]+)"\.', _Mistake.unknown_member),
        (_IN_OPTION + r'Message type "([^"]+)" has no field named "([^"]+)"\.', _Mistake.unknown_field),
        (_IN_OPTION + r'Unknown enumeration value of "([^"]+)" for field "([^"]+)"\.', _Mistake.unknown_value),
        (_IN_OPTION + r'Invalid value for boolean field "([^"]+)"\. Value: "([^"]+)"\.', _Mistake.no_truth),
        (_IN_OPTION + r'Expected "(\{)", found "(.+)"\.', _Mistake.wrong_value),
        (_IN_OPTION + r'Expected ":", found "(.+)"\.', _Mistake.no_colon),
        (_IN_OPTION + r"Expected ([^\",]+), got: (.+)", _Mistake.wrong_value),
        (_IN_OPTION + r"Integer out of range \((.+)\)", _Mistake.out_of_range),
        (_IN_OPTION + r'Non-repeated field "([^"]+)" is specified multiple times\.', _Mistake.repeated),
        (_IN_OPTION + r'Field "([^"]+)" is specified along with field "([^"]+)".*', _Mistake.either),
    )
)
