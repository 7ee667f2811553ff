"""`make torture` itself: its short selection is survived, and what is lost is told with the seed that repeats it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.torture import __main__ as torture
from benchmarks.torture.faults import Fault, Ground, Lost, NotHere

KINDS = sorted({fault.kind for fault in torture.FAULTS if fault.quick})


@pytest.mark.long  # .ci/run has the selection by itself
@pytest.mark.parametrize("kind", KINDS)
def test_the_short_selection_loses_something(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = torture.main(["--quick", "--only", f"{kind}: "])
    assert code == 0, capsys.readouterr().out


def test_what_is_lost_is_told_with_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attempt(ground: Ground) -> int:
        ground.fork(lambda: print("well") or 0)
        if ground.seed == 8:
            raise Lost("a trial")
        if ground.seed == 9:
            ground.ended(ground.fork(lambda: 1 // 0))  # a traceback of a process is a loss, whoever caused it
        return 3

    def nowhere(ground: Ground) -> int:
        raise NotHere("no such thing")

    monkeypatch.setattr(torture, "FAULTS", [Fault("store", "one", attempt), Fault("store", "other", nowhere)])
    assert torture.main(["--seed", "7", "--times", "3", "--json", str(tmp_path / "table.json")]) == 1
    out = capsys.readouterr().out
    assert "store: one        5        3     2  8: a trial; 9: a traceback: ZeroDivisionError" in out, out
    assert "no such thing" in out
    one, other = json.loads((tmp_path / "table.json").read_text())["faults"]
    assert (one["tried"], one["survived"], one["seeds"]) == (5, 3, [7, 9])
    assert [each["seed"] for each in one["lost"]] == [8, 9]
    assert other["not_tried_because"] == "no such thing"
    assert torture.main(["--seed", "7", "--times", "1"]) == 0


def test_what_one_of_several_jobs_lost_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attempt(ground: Ground) -> int:
        if ground.seed == 4:
            raise Lost("a trial")
        return 1

    monkeypatch.setattr(torture, "FAULTS", [Fault("store", name, attempt) for name in ("one", "other")])
    assert torture.main(["--seed", "3", "--times", "3", "--jobs", "2", "--json", str(tmp_path / "table.json")]) == 1
    assert "store: one        3        2     1  4: a trial" in capsys.readouterr().out
    for fault in json.loads((tmp_path / "table.json").read_text())["faults"]:
        assert (fault["tried"], fault["attempts"], fault["seeds"]) == (3, 3, [3, 5]), fault
        assert fault["lost"] == [{"seed": 4, "what": "a trial"}]
