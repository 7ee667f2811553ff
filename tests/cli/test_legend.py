"""`kdnas show` explains its signs and figures, those that stand in the table and no others."""

from __future__ import annotations

from kdnas import notebook
from kdnas.cli.tables import legend
from kdnas.store.database import open_store
from kdnas.study.ranking import Scored
from tests.cli.conftest import Place, Quick
from tests.rows import made_row
from tests.tui import filled


def scored(
    front: bool = False, tie: bool = False, flag: str | None = None, reference_ms: float | None = None
) -> Scored:
    return Scored(made_row(0, latency_flag=flag), 0.5, 1, tie, front, 0.2, reference_ms=reference_ms)


def test_show_has_a_legend(place: Place, quick: Quick) -> None:
    with open_store(str(place.store), create=True) as store:
        filled.study(store, "minilm", rows=30)
    done = quick("show", "minilm")
    assert done.code == 0, done.err
    assert "* on the front of loss and latency" in done.err and "× T is measured" in done.err
    assert ("! a doubtful latency" in done.err) == ("!" in done.out)


def test_a_sign_that_does_not_stand_there_is_not_explained() -> None:
    assert "*" not in legend([scored()]) and "~" not in legend([scored()])
    assert "× T" not in legend([scored()])
    said = legend([scored(front=True), scored(tie=True, flag="contended: 20%", reference_ms=41.53)])
    for part in ("* on the front", "~ ties with", "! a doubtful latency", "for a teacher of 41.5 ms"):
        assert part in said


def test_the_milliseconds_of_tables_filters_scripts_and_notebooks_are_the_same(place: Place, quick: Quick) -> None:
    """The last trial met a busy machine: it and its teacher took twice as long."""
    busy = made_row(1, loss=0.1, latency_ms=8.0, teacher_latency_ms=60.0)
    with open_store(str(place.store), create=True) as store:
        filled.study(store, "minilm", rows=[made_row(0, latency_ms=5.0, teacher_latency_ms=30.0), busy])
    told = quick("show", "minilm", "--filter", "latency<4.5", "--json").data["trials"]
    assert [(t["number"], t["latency_told_ms"], t["latency_ms"]) for t in told] == [(1, 4.0, 8.0)]
    rows = notebook.open_study("minilm", place.store).trials("latency<4.5")
    assert [(row["trial"], row["latency_ms"]) for row in rows] == [(1, 4.0)]
