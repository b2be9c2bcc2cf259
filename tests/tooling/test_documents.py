"""What the documents tell people to run and to read exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "client" / "longshore_client" / "template"
TARGETS = {
    folder: set(re.findall(r"^([a-z][a-z-]*):", (folder / "Makefile").read_text(), re.MULTILINE))
    for folder in (ROOT, TEMPLATE)
}
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)


# What a newcomer is told of a new project is run there.
@pytest.mark.parametrize(("page", "folders"), [("README.md", [ROOT, TEMPLATE]), ("CONTRIBUTING.md", [ROOT])])
def test_every_make_target_that_a_page_names_exists(page: str, folders: list[Path]) -> None:
    code = " ".join(CODE.findall((ROOT / page).read_text()))
    named = {word for arguments in re.findall(r"\bmake((?: +[a-z][a-z-]*)+)", code) for word in arguments.split()}
    assert named <= set().union(*(TARGETS[folder] for folder in folders))


def test_every_public_target_says_what_it_does() -> None:
    documented = set(re.findall(r"^([a-z][a-z-]*):.*## .", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"install", "demo", "test", "check", "generate", "bench", "torture"} <= documented


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", CODE.sub("", page.read_text("utf-8"))):
        target = page.parent / link if link else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings], link


def test_the_index_leads_to_every_page() -> None:
    docs = ROOT / "docs"
    linked = {
        (docs / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", (docs / "README.md").read_text("utf-8"))
    }
    assert set(docs.glob("*.md")) | set(docs.glob("guides/*.md")) <= linked | {docs / "README.md"}


GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=[guide.name for guide in GUIDES])
def test_every_guide_with_code_has_a_test_that_reads_it(guide: Path) -> None:
    assert "```" in guide.read_text("utf-8")
    assert any(guide.name in test.read_text("utf-8") for test in (ROOT / "tests").rglob("test_*.py"))
