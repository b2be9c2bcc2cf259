"""User code of which there are several versions, each in place of the one before, as deploys have it."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest


class Releases:
    """Puts a module in place, and takes away the one that it has put there before."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._replaced: tuple[str, ModuleType | None] | None = None

    def __call__(self, name: str, source: str) -> ModuleType:
        """A module of this name, which may be `__main__`, with that code."""
        if self._replaced is not None:
            before, there = self._replaced
            if there is None:
                self._patch.delitem(sys.modules, before)
            else:
                self._patch.setitem(sys.modules, before, there)
        self._replaced = name, sys.modules.get(name)
        module = ModuleType(name)
        self._patch.setitem(sys.modules, name, module)
        exec(source, module.__dict__)
        return module
