"""Notices: once for each study that ends while one looks, only if wanted, and never with what a terminal obeys."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from textual.widgets._toast import Toast

from kdnas.store import tables as t
from kdnas.store.database import open_store
from kdnas.study.rows import Status
from kdnas.system.errors import UsageError
from kdnas_tui.app import Told
from kdnas_tui.notices import WAYS, Endings, require_way, sequence
from tests.tui.driving import app_on, driven, text_of, until
from tests.tui.filled import study
from tests.tui.terminal import Terminal
from tests.tui.test_study_head import ROW


def at(status: Status, study_id: int = 1) -> object:
    return replace(ROW, study_id=study_id, status=status)


def told(*looks: list[tuple[int, Status]]) -> list[list[int]]:
    endings = Endings()
    return [[row.study_id for row in endings.among([at(s, i) for i, s in look])] for look in looks]  # type: ignore[misc]


def test_each_ending_is_told_once_and_what_was_over_before_is_no_news() -> None:
    assert told(
        [(1, Status.RUNNING), (2, Status.FINISHED), (3, Status.PAUSED), (4, Status.RUNNING)],
        [(1, Status.FINISHED), (2, Status.FINISHED), (3, Status.DEAD), (4, Status.STOPPED)],
        [(1, Status.FINISHED), (2, Status.FINISHED), (3, Status.DEAD), (4, Status.FAILED)],
        [(1, Status.RUNNING)],
        [(1, Status.FAILED)],
    ) == [[], [1, 3], [], [], [1]]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_from_outside_is_obeyed(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    row = replace(ROW, status=Status.FAILED, ending="bad \x1b]52;c;eA==\a \x9c\u202e\n; teacher")
    said = sequence(way, row)
    inner = {"off": "", "bell": "\a", "osc9": said[4:-1], "osc777": said[len("\x1b]777;notify;") : -1]}[way]
    assert said == {"off": "", "bell": "\a", "osc9": f"\x1b]9;{inner}\a", "osc777": f"\x1b]777;notify;{inner}\a"}[way]
    if way.startswith("osc"):
        assert inner.isprintable()
        assert "failed" in inner and "teacher" in inner
    if way == "osc777":
        assert inner.split(";")[0] == f"kdnas {ROW.name}"


def test_tmux_is_asked_to_hand_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    said = sequence("osc9", replace(ROW, status=Status.FINISHED))
    assert re.fullmatch(r"\x1bPtmux;\x1b\x1b\]9;[^\x00-\x1f]*\x07\x1b\\", said)
    assert sequence("bell", ROW) == "\a"


def test_another_way_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--notify: 'osc99' is no way to notify. Did you mean 'osc9'?"):
        require_way("osc99", "--notify")


def test_a_real_terminal_is_told_when_the_worker_has_gone(tmp_path: Path) -> None:
    places = {name: str(tmp_path / name) for name in ("KDNAS_STATE", "KDNAS_CONFIG")}
    import time

    with open_store(tmp_path / "kdnas.db", create=True) as store:
        study(store, "minilm", worker="running", heard=time.time() + 3600)
        terminal = Terminal(["--storage", str(tmp_path / "kdnas.db"), "--notify", "osc9"], tmp_path, places)
        try:
            terminal.until("● running")
            assert b"\x1b]9;" not in terminal.bytes
            with store.begin() as connection:
                ended = {"state": "failed", "ended": time.time(), "error": "The teacher is gone."}
                connection.execute(sa.update(t.worker).values(**ended))
                connection.execute(sa.update(t.study).values(ending="The teacher is gone."))
            terminal.until(lambda: b"\x1b]9;" in terminal.bytes, "it is told")
            terminal.until("✕ failed")
            assert terminal.bytes.count(b"\x1b]9;") == 1
            assert "\x1b]9;minilm failed, best reward " in terminal.bytes.decode()
        finally:
            terminal.kill()


async def test_a_notification_that_has_just_expired_stops_nothing(tmp_path: Path) -> None:
    """Textual's timer of less than nothing never ends: the toast of an expired notification begins one."""
    assert Told("late", timeout=0.0).has_expired and Toast(Told("late", timeout=0.0))._timeout > 0
    async with driven(app_on(f"sqlite:///{tmp_path / 'k.db'}")) as pilot:
        pilot.app.screen.notify("written")
        await until(pilot, lambda: "written" in text_of(pilot.app), "it is told")
        assert [type(one) for one in pilot.app._notifications] == [Told]
