"""What is said of an error that keeps a server from starting: where in the service it is, if it is there."""

from __future__ import annotations

import importlib
import json
import traceback
from pathlib import Path

import pytest

from longshore_server import mistakes


def raised(folder: Path, text: str) -> Exception:
    """What a module raises."""
    (folder / "module_of_this_test.py").write_text(text)
    importlib.invalidate_caches()
    try:
        importlib.import_module("module_of_this_test")
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where modules can be imported from, by this test as by the server."""
    monkeypatch.setattr(mistakes, "_OURS", Path(__file__).parent)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_place_is_the_services_where_a_library_has_raised(folder: Path) -> None:
    found = mistakes.explain(raised(folder, "import json\njson.loads('')\n"))
    assert found.sentence == (
        "module_of_this_test.py:2: json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    )
    assert str(Path(json.__file__).with_name("decoder.py")) in found.trace


def test_it_may_be_installed_beside_the_libraries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = folder / "site-packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(packages)
    found = mistakes.explain(raised(packages, "raise RuntimeError('no')\n"))
    assert found.sentence == "site-packages/module_of_this_test.py:1: RuntimeError: no"


def test_an_error_from_elsewhere_keeps_its_whole_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "_OURS", Path(__file__).parent)
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("")
    found = mistakes.explain(caught.value)
    assert found.sentence.startswith("unexpected: json.decoder.JSONDecodeError: Expecting value")
    assert "".join(traceback.format_exception(caught.value)).startswith(found.trace)
    assert __file__ in found.trace
