"""The report of a study: one page that a real browser opens without an error, and Markdown with its pictures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="the extra report is not installed")

from kdnas.reports import report
from kdnas.reports.report import Content
from kdnas.store import jobs
from kdnas.store import tables as t
from kdnas.store.database import Store, open_store
from kdnas.system.errors import UsageError
from tests.reports.browser import needs_browser, opened
from tests.rows import made_row, made_rows
from tests.tui import filled

AWKWARD = "it's <b>&quot;|bold|</b> ```"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """An LSTM study of 60 trials with a finished model, and one with a single trial."""
    opened = open_store(tmp_path_factory.mktemp("report") / "kdnas.db", create=True)
    rows = [
        replace(row, predicted=0.6 + row.number / 200, reward=0.5 if row.state == "done" else None)
        for row in made_rows(60, seed=3)
    ]
    study_id = filled.study(opened, "lstm-study", trials=60, rows=rows, strategy="lstm")
    with opened.begin() as connection:
        for episode in range(3):
            connection.execute(
                t.episode.insert().values(
                    study_id=study_id, episode=episode, epsilon=1.0 - episode / 20, pool_size=200, facts="{}", time=1.0
                )
            )
        provenance = {"teacher": AWKWARD, "versions": {"torch": "2.13.0"}}
        connection.execute(
            t.study.update().where(t.study.c.study_id == study_id).values(provenance=json.dumps(provenance))
        )
    run_id = jobs.begin(opened, study_id, "finalize", "/somewhere/student", number=3)
    metrics = {"loss": 0.123, "epochs": 7}
    jobs.end(opened, run_id, {"metrics": metrics, "latency": {"student_ms": 4.2, "speedup": 3.5}})
    filled.study(opened, "small", trials=40, rows=[made_row(0)])
    filled.study(opened, "none", trials=40, rows=0)
    return opened


@pytest.fixture(scope="module")
def content(store: Store) -> Content:
    return report.gather(store, "lstm-study")


@pytest.fixture(scope="module")
def page(content: Content, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "report.html"
    assert report.write(content, output) == [output]
    return output


@needs_browser
def test_a_browser_opens_it_without_errors_and_sorts_the_table(page: Path) -> None:
    found = opened(
        page,
        """
  const heads = [...document.querySelectorAll("#best th")], names = heads.map(h => h.textContent);
  const column = name => [...document.querySelectorAll("#best tbody tr")]
    .map(row => row.cells[names.indexOf(name)].dataset.value);
  const press = name => heads[names.indexOf(name)].querySelector("button").click();
  const before = column("rank");
  press("latency ms"); const up = column("latency ms"), sort = heads[names.indexOf("latency ms")].ariaSort;
  press("latency ms"); const down = column("latency ms");
  press("hidden_act"); const words = column("hidden_act");
  press("rank");
  const boxes = [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect());
  return {before, up, down, words, sort, after: column("rank"), names,
    pictures: [...document.querySelectorAll("figure")].map(f => f.id),
    drawn: boxes.map(box => box.width > 200 && box.height > 100),
    marks: [...document.querySelectorAll("figure")].map(f => f.querySelectorAll("path, use").length),
    ids: [...document.querySelectorAll("[id]")].map(e => e.id), dead: [...document.querySelectorAll("use")]
      .filter(u => !document.getElementById(u.getAttributeNS("http://www.w3.org/1999/xlink", "href").slice(1))).length,
    bold: document.querySelectorAll("b").length, title: document.title};
""",
    )
    assert found["errors"] == [] and found["console"] == []
    assert found["pictures"] == ["pareto", "history", "controller", "importance"]
    assert all(found["drawn"]) and all(marks > 10 for marks in found["marks"])
    assert len(set(found["ids"])) == len(found["ids"]) and found["dead"] == 0
    assert found["before"] == found["after"] == [str(rank) for rank in range(1, 26)]
    latencies = [float(value) for value in found["up"]]
    assert latencies == sorted(latencies) and found["sort"] == "ascending"
    assert [float(value) for value in found["down"]] == sorted(latencies, reverse=True)
    assert found["words"] == sorted(found["words"])
    assert found["bold"] == 0 and found["title"].startswith("lstm-study")


def test_the_page_needs_nothing_from_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    outside = re.findall(r'(?:src|href)\s*=\s*"(?!#|data:)([^"]*)"|url\((?!#)([^)]*)\)|@import', text)
    assert outside == []
    assert "default-src 'none'" in text
    for said in ("10 times faster", "α = -0.06", "lstm", "95 % interval", "held-out loss 0.1230"):
        assert said in text
    assert "<b>" not in text and "&lt;b&gt;" in text


def test_pictures_are_well_formed_and_named_apart(content: Content) -> None:
    from kdnas.reports import pictures

    for picture in content.pictures:
        root = ElementTree.fromstring(pictures.svg(picture.figure, picture.name, picture.title))
        words = [element.text for element in root.iter() if element.tag.endswith("text")]
        assert any(word and word.strip() for word in words)


def test_markdown_has_its_pictures_beside_it(content: Content, tmp_path: Path) -> None:
    written = report.write(content, tmp_path / "report.md")
    assert [path.name for path in written] == [
        "report.md",
        "pareto.png",
        "history.png",
        "controller.png",
        "importance.png",
    ]
    text = (tmp_path / "report.md").read_text()
    for link in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (tmp_path / link).read_bytes().startswith(b"\x89PNG")
    assert text.count("\n```") == 2  # what a name holds cannot close the block
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for block in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    report.write(content, tmp_path / "report.md")  # again, over itself


def test_a_study_of_one_trial_has_what_there_is(store: Store, tmp_path: Path) -> None:
    content = report.gather(store, "small")
    assert [picture.name for picture in content.pictures] == ["pareto", "history"]
    report.write(content, tmp_path / "report.html")


def test_what_cannot_be_reported_is_said(store: Store, content: Content, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished trial to report"):
        report.gather(store, "none")
    with pytest.raises(UsageError, match=r"no study 'smal'.*Did you mean 'small'"):
        report.gather(store, "smal")
    with pytest.raises(UsageError, match=r"End it in \.html or \.md"):
        report.write(content, tmp_path / "report.pdf")
    with pytest.raises(UsageError, match="does not exist"):
        report.write(content, tmp_path / "nowhere" / "report.html")
    assert not any(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'kdnas\[report\]'"):
        report.gather(store, "small")
