"""The report: one file, self-contained, everything escaped, sections in order."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import figure_data
import numpy as np
import pandas as pd
import pytest

from analysis.answers import Answer
from analysis.figures import FIGURES, Tables, render
from analysis.report import (
    ReportContext,
    evidence_sheets,
    interval,
    number,
    proposal_sheet,
    stage_sheet,
    write_report,
)

NASTY = "<script>alert('x')</script> & \"q\""


class Page(HTMLParser):
    """Tags with attributes, in order; text of the whole page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def context(**changes: object) -> ReportContext:
    values: dict = {
        "title": "How the series came to know its languages",
        "series": "demo",
        "primary": "python",
        "languages": ["python", "php", "java"],
        "answers": [
            Answer("php", False, (("Has it split?", ("split at 7.4k tokens", "in 2 of 2 seeds")),)),
            Answer("java", False, (("Has it split?", ("no split found (constant preferred)",)),)),
            Answer("python", True, (("Change the mixture?", ("now 75%",)), ("Why?", ("so",)))),
        ],
        "seeds": ["2 seeds: a, b"],
        "about": {"epoch_cap": ["mind: assumes that python helps"]},
        "calibration": ["php: P read from the loss falls to 0.09"],
        "verdicts": ["validation: epoch_cap is better than natural"],
        "provenance": {"revision": "0123abc", "torch": "2.13.0"},
        "skipped": [(384, "weights hold NaN")],
        "notes": ["fewer tokens than the budget for java"],
        "config": "series:\n  name: demo\n",
    }
    return ReportContext(**{**values, **changes})


@pytest.fixture(scope="module")
def tables() -> Tables:
    return figure_data.tables(2, 4, flat=("java",))


@pytest.fixture(scope="module")
def figures(tables: Tables) -> dict:
    return {name: render(draw(tables), "svg") for name, draw in FIGURES.items()}


@pytest.fixture(scope="module")
def html(tables: Tables, figures: dict, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    assert write_report(path, tables, context(), figures) == path
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_sections_stand_in_the_order_of_the_questions(html: str) -> None:
    page = Page(html)
    assert not page.open
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == [
        "languages", "stages", "proposal", "figures", "evidence", "provenance", "skipped",
    ]  # fmt: skip
    wanted = (
        "split at 7.4k tokens", "in 2 of 2 seeds", "no split found (constant preferred)",
        "python (primary)", "now 75%", "2 seeds: a, b", "no split found (starts at chance)",
        "epoch_cap (proposed)", "mind: assumes that python helps", "Was it validated?",
        "epoch_cap is better than natural", "P read from the loss falls to 0.09",
        "1. The Babel Tower", "r squared", "0123abc", "name: demo", "weights hold NaN",
        "fewer tokens than the budget for java",
    )  # fmt: skip
    places = [page.text.index(each) for each in wanted]
    assert places == sorted(places)


def test_nothing_is_fetched_and_nothing_runs(html: str) -> None:
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    targets = [
        value for _, attributes in page.tags for name, value in attributes.items()
        if name in ("src", "href", "srcset", "poster", "action", "data")
    ]  # fmt: skip
    assert targets
    assert all(str(each).startswith(("data:image/svg+xml;base64,", "#")) for each in targets)
    assert "http" not in html
    assert not re.search(r"url\(|@import", html)


def test_figures_are_those_that_are_saved(html: str, figures: dict) -> None:
    data = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert len(data) == len(FIGURES)
    for encoded, figure in zip(data, figures.values(), strict=True):
        svg = base64.b64decode(encoded)
        assert svg == figure
        root = ElementTree.fromstring(svg)  # noqa: S314  (our own bytes)
        links = [
            value for each in root.iter() for name, value in each.attrib.items() if "href" in name
        ]
        assert all(value.startswith(("#", "data:")) for value in links)


def test_everything_is_escaped(tmp_path: Path) -> None:
    names = (NASTY, "java")
    nasty = figure_data.tables(2, 2, layers=2, names=names, flat=names, primary=NASTY)
    nasty.mixture["reason"] = NASTY
    nasty.stages["reason"] = NASTY
    said = context(
        title=NASTY, series=NASTY, primary=NASTY, languages=[NASTY],
        answers=[Answer(NASTY, True, ((NASTY, (NASTY,)),))], seeds=[NASTY], calibration=[NASTY],
        about={"epoch_cap": [NASTY]}, verdicts=[NASTY], provenance={NASTY: NASTY},
        skipped=[(1, NASTY)], notes=[NASTY], config=NASTY,
    )  # fmt: skip
    html = write_report(tmp_path / "r.html", nasty, said).read_text(encoding="utf-8")
    page = Page(html)
    assert not page.open
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in html
    assert page.text.count(NASTY) >= 20


def test_tables_hold_the_numbers(tables: Tables) -> None:
    sheet = stage_sheet(tables.stages)
    assert sheet is not None
    rows = {(row[0].text, row[1].text): row for row in sheet.rows}
    php = rows["php", "working language"]
    value = tables.stages[
        (tables.stages["language"] == "php")
        & (tables.stages["measure"] == "working_language_share")
    ].set_index("statistic")
    column = sheet.columns.index("Midpoint")
    assert php[column].text == number(value.loc["midpoint", "value"])
    assert php[column].range == interval(
        value.loc["midpoint", "low"], value.loc["midpoint", "high"]
    )
    assert php[2].text == "split"
    assert rows["java", "neurons"][2].text == "no split found (starts at chance)"
    assert {cell.text for cell in rows["java", "neurons"][3:]} == {"–"}
    first, second = evidence_sheets(tables.stages)
    assert (first.caption, second.caption) == ("Working language", "Neurons")
    assert first.columns == ["Statistic", "php"]
    found = {row[0].text: row[1].text for row in first.rows}
    assert found["r squared"] == "0.991"
    assert found["p value"] == "0.004"
    assert "transition width (tokens)" in found
    proposal = proposal_sheet(tables.mixture)
    assert proposal.columns == ["Method", "python", "php", "java"]
    assert [row[0].text for row in proposal.rows] == ["epoch_cap (proposed)", "natural", "uniform"]
    assert proposal.rows[0][1].text == "0.58"
    assert proposal.rows[0][1].range == "[0.54, 0.62]\n73 epochs"


def test_what_is_not_reached_or_not_bounded_is_said(tables: Tables) -> None:
    stages = tables.stages.copy()
    stages.loc[stages["statistic"] == "transition_end", ["value", "low", "high"]] = np.nan
    stages.loc[stages["statistic"] == "midpoint", "high"] = np.nan
    sheet = stage_sheet(stages)
    assert sheet is not None
    assert sheet.rows[0][sheet.columns.index("Stabilization from")].text == "not reached"
    assert sheet.rows[0][sheet.columns.index("Midpoint")].range.endswith(", ?]")
    assert interval(np.nan, np.nan) == ""


def test_an_empty_run_still_has_a_report(tables: Tables, tmp_path: Path) -> None:
    nothing = Tables(*(
        pd.DataFrame(columns=getattr(tables, name).columns)
        for name in ("curves", "fits", "stages", "layers", "sets", "mixture")
    ))  # fmt: skip
    said = context(
        answers=[], seeds=[], about={}, calibration=[], verdicts=[], skipped=[], notes=[],
        provenance={}, config="",
    )  # fmt: skip
    html = write_report(tmp_path / "r.html", nothing, said).read_text(encoding="utf-8")
    text = Page(html).text
    for sentence in (
        "No conclusion was drawn", "tracker task=validate", "No curve was fitted",
        "No mixture was proposed",
        "Every checkpoint that was to be tracked has a record",
    ):  # fmt: skip
        assert sentence in text
    assert "Does the loss tell" not in text
    assert html.count("<img") == len(FIGURES) - 4


def test_the_same_tables_give_the_same_bytes(
    html: str, tables: Tables, figures: dict, tmp_path: Path
) -> None:
    again = write_report(tmp_path / "again.html", tables, context(), figures)
    assert again.read_text(encoding="utf-8") == html
