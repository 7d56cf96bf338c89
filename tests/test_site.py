"""The site: every public name in the reference, once; links that hold on a forge, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sona_shm as sona
from tests.conftest import ROOT
from tests.documents import FILES

REFERENCE = sorted((ROOT / "docs" / "api").glob("*.rst"))
_DIRECTIVE = re.compile(
    r"^\.\. (?:currentmodule:: (\S+)|auto(?:class|exception|function):: (\w+))", re.MULTILINE
)
_BLOCK = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def test_the_reference_has_every_public_name_once() -> None:
    found: dict[str, list[str]] = {}
    for page in REFERENCE:
        module = ""
        for switch, name in _DIRECTIVE.findall(page.read_text()):
            module = switch or module
            if name:
                found.setdefault(module, []).append(name)
    assert sorted(found.pop("sona_shm")) == list(sona.__all__)
    assert found == {
        "sona_shm.integrations.worker": ["worker_engine"],
        "sona_shm.integrations.gunicorn": ["GunicornHooks"],
    }


def test_every_page_is_in_the_contents() -> None:
    (contents,) = [page for page in REFERENCE if page.stem == "index"]
    assert {page.stem for page in REFERENCE} - {"index"} <= set(contents.read_text().split())
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= set(index.split())


def anchors(page: Path) -> set[str]:
    """Of the headings, as forges and the site make them."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", FILES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere_on_a_forge(page: Path) -> None:
    for target, anchor in _LINK.findall(_BLOCK.sub("", page.read_text())):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"
