"""Docs and code agree: on files, sections, links, and the lists that users choose from."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from uncol.experiments.methods import ABLATIONS, COMPARED
from uncol.generalist.models import GENERALISTS
from uncol.method.recipe import Recipe
from uncol.selection.strategies import STRATEGIES
from uncol.settings import CHOICES, KNOWN

ROOT = Path(__file__).parents[1]
LIB = ROOT / "lib" / "uncol"
CITED = re.compile(
    r"docs/([\w-]+\.md)(?:\s+sections?\s+((?:\d[\d.]*(?:,\s+|\s+and\s+|\s+to\s+)?)+))?"
)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "model").glob("*.md")])


def sources() -> list[Path]:
    folders = ("lib/uncol", "tests", "benchmarks", "apps")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)


def anchor(heading: str) -> str:
    """Return what GitHub makes of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def test_every_cited_page_and_section_exists() -> None:
    missing = []
    for source in sources():
        for page, sections in CITED.findall(source.read_text()):
            path = ROOT / "docs" / page
            numbers = {h.split(" ")[0] for h in headings(path)} if path.exists() else set()
            wanted = NUMBER.findall(sections or "")
            if not path.exists() or not set(wanted) <= numbers:
                missing.append(f"{source.relative_to(ROOT)}: docs/{page} {sections}")
    assert missing == []


def test_no_document_is_cited_that_is_not_here() -> None:
    gone = re.compile(r"uncol-method\.md|(?<![\w-])monailabel\.md|DESIGN\.md|\btrap \d")
    wrong = [str(p.relative_to(ROOT)) for p in (*sources(), *PAGES) if gone.search(p.read_text())]
    assert [name for name in wrong if name != "tests/test_docs.py"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target, place in LINK.findall(page.read_text()):
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            broken.append(target)
        elif place and path.suffix == ".md" and place not in map(anchor, headings(path)):
            broken.append(f"{target}#{place}")
    assert broken == []


def readme_settings() -> dict[str, list[str]]:
    """Return the values that README's table of settings names, by setting."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    return {name: re.findall(r"`([\w.]+)`", values) for name, values in rows}


def test_readme_lists_the_settings_there_are_with_their_values() -> None:
    table = readme_settings()
    assert set(KNOWN) <= set(table)
    assert {name: tuple(table[name]) for name in CHOICES} == CHOICES


def test_readme_lists_the_strategies_there_are() -> None:
    (row,) = re.findall(
        r"^\| strategy \| ([^|]+) \|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert re.findall(r"`(\w+)`", row) == list(STRATEGIES)


def test_model_readme_tells_of_every_generalist() -> None:
    text = (ROOT / "model" / "README.md").read_text()
    assert all(name in text for name in GENERALISTS)


def test_the_specification_names_switches_and_methods_that_exist() -> None:
    text = (ROOT / "docs" / "method.md").read_text()
    differences = {
        "specialist_frozen_in_stage2", "softmax_over_probabilities", "softmax_twice_in_dice",
        "shifted_clicks", "mask_memory_carried_over", "raw_states", "empty_scores_zero",
        "specialist_in_training_mode", "rate_overwritten",
    }  # fmt: skip
    assert differences <= {field.name for field in fields(Recipe)}
    assert all(f"`{name}`" in text for name in differences)
    named = set(re.findall(r"`(uncol_\w+)`", text))
    known = {*COMPARED, *ABLATIONS, "uncol_uncertainty", "uncol_overlay", "uncol_rois"}
    assert named <= known | {"uncol_prompt"}


def test_readme_says_truly_where_to_change_what() -> None:
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Where to change what") :]
    rows = re.findall(r"^\| ([a-z][^|]+?) \| `([^`]+)` \|", table, re.MULTILINE)
    assert len(rows) == 8
    assert all((ROOT / path).exists() for _, path in rows)


def test_the_flows_pass_modules_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    flows = re.findall(r"^- (?:serve|learn|judge|ask): .+$", text, re.MULTILINE)
    assert len(flows) == 4
    for name in re.findall(r"`([\w/]+)`", "\n".join(flows)):
        assert (LIB / name).is_dir() or (LIB / f"{name}.py").exists(), name


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
