"""Text that somebody else wrote, made fit for a terminal."""

from __future__ import annotations

import json
import re

# What moves the cursor, colours, ends a line or reverses the direction: C0, DEL, C1, bidirectional controls, separators
# of lines, and halves of characters, which no terminal can be given.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str, *, keep: str = "") -> str:
    r"""The text with control characters, but for those of `keep`, as JSON writes them: for example `\n` and `\u001b`.

    JSON stays the JSON that it was.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else json.dumps(found[0])[1:-1], text)
