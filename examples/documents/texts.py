"""What is in a text, found out chunk by chunk: memory stays flat however large it is."""

from __future__ import annotations

import codecs
import re
from collections import Counter

from acme.documents.v1.documents_pb2 import TextStatistics, WordCount

FIRST_LINES = 10
FIRST_CHARACTERS = 2000
"""The most of a text that its extract has, however long its lines are."""
_WORD = re.compile(r"[^\W\d_]+")
_COUNTED = 4
"""Characters that a word needs to be among the most frequent ones."""
_LONGEST = 100
"""Characters of a word. What is longer counts as several, so that little has to be kept between two chunks."""
_VOCABULARY = 20_000
"""Words that are counted at once. Of a text with more the rarest are forgotten now and then."""


class TextReader:
    """Reads a text in UTF-8; what is no UTF-8 counts as one character each."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._first = ""
        self._held = ""
        self._ends = self._characters = self._words = 0
        self._open_line = False
        self._counts: Counter[str] = Counter()

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        self._add(self._decode(data))

    def statistics(self) -> TextStatistics:
        """What the text consists of, after its last byte."""
        self._add(self._decode(b"", final=True))
        self._count(self._held)
        frequent = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:5]
        return TextStatistics(
            lines=self._ends + self._open_line, words=self._words, characters=self._characters,
            most_frequent=[WordCount(word=word, count=count) for word, count in frequent],
        )  # fmt: skip

    def extract(self) -> bytes:
        """Its first lines."""
        return "".join(self._first.splitlines(keepends=True)[:FIRST_LINES]).encode()

    def _add(self, text: str) -> None:
        if not text:
            return
        self._first += text[: FIRST_CHARACTERS - len(self._first)]
        self._characters += len(text)
        self._ends += text.count("\n")
        self._open_line = not text.endswith("\n")
        text = self._held + text
        cut = len(text)
        while cut and text[cut - 1].isalpha() and len(text) - cut < _LONGEST:
            cut -= 1
        self._held = text[cut:]  # the next chunk may go on with this word
        self._count(text[:cut])

    def _count(self, text: str) -> None:
        words = _WORD.findall(text)
        self._words += len(words)
        self._counts.update(word.lower() for word in words if len(word) >= _COUNTED)
        if len(self._counts) > _VOCABULARY:
            self._counts = Counter(dict(self._counts.most_common(_VOCABULARY // 2)))
