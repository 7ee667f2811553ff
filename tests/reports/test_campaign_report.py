"""The report of a campaign: one page that a real browser opens, with its tables and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the extra report is not installed")

from kdnas.campaigns.contract import Beat
from kdnas.campaigns.coordinator import run
from kdnas.reports import campaign_report, pictures
from kdnas.store import campaigns
from kdnas.store.database import open_store
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.campaign_spec import campaign_from
from kdnas.study.campaign_table import ranked, verdict, with_front
from kdnas.study.constraints import Limits
from tests.campaigns import formulas
from tests.reports.browser import needs_browser, opened

HOSTILE = """</td></title></svg><script>window.ran = 1</script><img src="x" onerror="window.ran = 1"> 'a' & "b\""""
NAME = """<img src="x" onerror='window.ran = 1'>&"""
MEMBERS = ("good", "fair", "poor")


def row(member: str, kind: str, score: float | None, latency_ms: float | None, **more: Any) -> dict[str, Any]:
    speedup = None if latency_ms is None else 8.0 / latency_ms
    return {
        "name": member, "kind": kind, "member": member, "trial": 1, "score": score, "macro_f1": score, "own_head": None,
        "finetuned": None, "latency_ms": latency_ms, "speedup": speedup, "flag": "", "parameters": 1000,
        "size_mib": 0.5, "folder": None, "state": "going", "reason": "", **more,
    }  # fmt: skip


def finish(campaign: CampaignRow, beat: Beat) -> Mapping[str, Any]:
    """A table with a student that has no figures, and text from outside wherever a real one may have some."""
    rows = ranked(
        with_front(
            [
                row("good", "student", 0.9, 2.0),
                row("fair", "student", 0.8, 1.0, flag=HOSTILE),
                row("poor", "student", None, None, reason=HOSTILE),
                row("good", "teacher", 0.95, 8.0, name=NAME),
            ]
        ),
        Limits(),
    )
    return {
        "rows": rows, "winner": "good", "runner_up": "fair", "verdict": verdict(rows, Limits(), 100),
        "reference": NAME, "reference_ms": 8.0, "constraints": "", "device": "cpu",
        "task": {"source": HOSTILE, "train": 800, "held_out": 100, "test": 100, "classes": ["a", HOSTILE]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a campaign that its coordinator brought to an end."""
    folder = tmp_path_factory.mktemp("campaign")
    storage = str(folder / "kdnas.db")
    members = {name: {"teacher": {"model": f"{HOSTILE} {name}"}} for name in MEMBERS}
    with open_store(storage, create=True) as store:
        spec = campaign_from(
            {**formulas.spec(15, MEMBERS).model_dump(), "task": {"source": HOSTILE}, "members": members}
        )
        campaigns.begin_campaign(store, spec, str(folder / "models"))
    ended = run(storage, "c", replace(formulas.hands(storage), finish=finish), lambda line: None)
    output = folder / "campaign.html"
    assert campaign_report.write(ended, output) == [output]
    return output


@needs_browser
def test_a_browser_runs_outside_text_or_misses_the_table_or_the_picture(page: Path) -> None:
    found = opened(
        page,
        """
  const table = [...document.querySelectorAll("table")]
    .map(t => [...t.rows].map(row => [...row.cells].map(cell => cell.textContent)));
  const svg = document.querySelector("figure#campaign svg"), box = svg.getBoundingClientRect();
  return {table, drawn: [box.width > 200, box.height > 100], marks: svg.querySelectorAll("path, use").length,
    dead: [...document.querySelectorAll("use")]
      .filter(u => !document.getElementById(u.getAttributeNS("http://www.w3.org/1999/xlink", "href").slice(1))).length,
    words: [...svg.querySelectorAll("text")].map(text => text.textContent), ran: window.ran ?? null,
    scripts: document.body.querySelectorAll("script").length, images: document.querySelectorAll("img").length,
    heads: [...document.querySelectorAll("h2")].map(head => head.textContent), title: document.title};
""",
    )
    assert found["errors"] == [] and found["console"] == []
    assert found["ran"] is None and found["scripts"] == 0 and found["images"] == 0
    assert found["title"].startswith("c:") and found["heads"] == [
        "Score and latency",
        "Side by side",
        "Members",
        "Decisions",
    ]
    facts, final, members, decisions = found["table"]
    assert dict(facts)["Verdict"].startswith("good wins") and HOSTILE in dict(facts)["Task"]
    named = [dict(zip(final[0], line, strict=True)) for line in final[1:]]
    assert [(line["rank"], line["model"]) for line in named] == [
        ("1", "good"), ("2", "fair"), ("–", "poor"), ("–", f"teacher {NAME}"),
    ]  # fmt: skip
    assert [line["front"] for line in named] == ["*", "*", "–", "*"] and HOSTILE in named[2]["remark"]
    assert [line[0] for line in members[1:]] == list(MEMBERS) and HOSTILE in members[1][2]
    assert len(decisions) > 1 and "good" in decisions[1][2]
    assert all(found["drawn"]) and found["marks"] > 10 and found["dead"] == 0
    assert {"good", "fair", NAME} <= set(found["words"]) and "poor" not in found["words"]


def test_a_long_name_takes_the_room_of_the_axes() -> None:
    def drawn(names: tuple[str, str]) -> float:
        rows = [
            {
                "name": name,
                "kind": "student",
                "score": 0.8 + nth / 10,
                "latency_ms": 2.0 + nth,
                "size_mib": 9,
                "front": True,
            }
            for nth, name in enumerate(names)
        ]
        figure = pictures.campaign(rows)
        pictures.png(figure)
        return float(figure.axes[0].get_position().width)

    assert drawn(("a" * 200, "b" * 300)) == pytest.approx(drawn(("a", "b")), rel=0.01)
