"""Names in annotations that mean nothing, as told from those that only type checkers see."""

from __future__ import annotations

import ast
import linecache
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

_GENERATED = ("_pb2", "_longshore")
"""How modules end of which it is certain what they have."""


class Unbound(NamedTuple):
    """A name that an annotation says, and nothing has."""

    name: str
    known: Iterable[str]
    """Those that there are in its place."""


def unbound(function: Any, error: Exception) -> Unbound | None:
    """The name because of which an annotation of a function has no value at run time. None: a type checker may know it
    all the same, for it stands below `if TYPE_CHECKING`, in a function around this one, or nobody knows where.

    `error`: what came of evaluating it.
    """
    bound = _bound(function)
    if bound is None:
        return None
    if isinstance(error, NameError) and error.name not in bound:
        return Unbound(str(error.name), sorted(bound))
    if isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType):
        certain = error.obj.__name__.endswith(_GENERATED) and error.name not in bound
        return Unbound(str(error.name), dir(error.obj)) if certain else None
    return None


def _bound(function: Any) -> set[str] | None:
    """Every name that a function's file gives a meaning anywhere. None: that cannot be told."""
    try:
        tree = ast.parse("".join(linecache.getlines(function.__code__.co_filename, function.__globals__)))
    except (AttributeError, SyntaxError, ValueError):
        return None
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            if node.name == "*":
                return None
            found.update(node.name.split(".") if node.asname is None else (node.asname,))
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                found.add(node.id)
        elif isinstance(name := getattr(node, "name", None), str):  # classes, functions, parameters of types
            found.add(name)
    return found or None
