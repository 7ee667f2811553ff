"""The panes of lines: log, importance and devices."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from kdnas.study.rows import LogRow
from kdnas_tui.machine import Probe, Reading
from kdnas_tui.widgets.devices import draw_devices, draw_doubtful, means
from kdnas_tui.widgets.importance import Importance
from kdnas_tui.widgets.lines import wrapped
from kdnas_tui.widgets.log_tail import MOST, LogTail
from kdnas_tui.widgets.sketch import Sketch
from tests.tui.widget_apps import WidgetApp


def row(number: int, line: str = "", level: str = "info") -> LogRow:
    return LogRow(number, 1, 1000.0 + number, level, line or f"line {number}")


def tail() -> LogTail:
    return LogTail(clock=lambda moment: "12:00:00")


async def test_the_end_is_followed_until_scrolled_back():
    log = tail()
    app = WidgetApp(log)
    async with app.run_test(size=(60, 10)) as pilot:
        log.add(row(n) for n in range(50))
        await pilot.pause()
        assert app.text()[-1].endswith("line 49")
        await pilot.press("up")
        assert not log.following and "end to follow" in log.status
        before = app.text()
        app.take_sent()
        log.add([row(50)])
        await pilot.pause()
        assert app.text() == before and app.take_sent() == ""
        await pilot.press("end")
        assert log.following and app.text()[-1].endswith("line 50")
        await pilot.press("home")
        assert app.text()[0].endswith("line 0")
        await pilot.press("pagedown", "j", "k", "pageup")
        assert app.text()[0].endswith("line 0")


async def test_levels_leave_out_what_is_below():
    log = tail()
    app = WidgetApp(log)
    async with app.run_test(size=(60, 10)) as pilot:
        log.add([row(0, "a debug", "debug"), row(1, "an info"), row(2, "a warning", "warning"), row(3, "bad", "error")])
        await pilot.pause()
        for shown in (["an info", "a warning", "bad"], ["a warning", "bad"], ["bad"], ["a debug", "an info"]):
            log.next_level()
            await pilot.pause()
            text = "\n".join(app.text())
            assert all(line in text for line in shown)
        assert log.level == "debug"
        assert "! a warning" in "\n".join(app.text()) and "✖ bad" in "\n".join(app.text())


async def test_search_goes_from_match_to_match():
    log = tail()
    app = WidgetApp(log)
    async with app.run_test(size=(60, 6)) as pilot:
        log.add(row(n, f"Trial {n} lost" if n % 20 == 0 else "") for n in range(100))
        await pilot.pause()
        assert log.search("LOST") == 5
        await pilot.pause()
        assert "Trial 80 lost" in "\n".join(app.text())
        assert log.status.startswith("/LOST: 5")
        log.go_to_match(-1)
        await pilot.pause()
        assert "Trial 60 lost" in "\n".join(app.text())
        log.go_to_match(1)
        log.go_to_match(1)
        await pilot.pause()
        assert "Trial 0 lost" in "\n".join(app.text())
        assert log.search("nowhere") == 0
        assert log.search("") == 0 and "/" not in log.status


async def test_long_lines_are_wrapped_and_hostile_ones_harmless():
    log = tail()
    app = WidgetApp(log)
    async with app.run_test(size=(40, 12)) as pilot:
        log.add([row(0, "word " * 20), row(1, "x" * 70), row(2, "[red]a[/] \x1b[2J\ttab"), row(3, "漢" * 30)])
        await pilot.pause()
        lines = app.text()
        assert all(len(line) <= 40 for line in lines)
        assert "[red]a[/]" in "\n".join(lines)
        assert "\x1b[2J" not in app.take_sent()
        await pilot.resize_terminal(80, 12)
        await pilot.pause()
        assert any("x" * 60 in line for line in app.text())


async def test_old_lines_are_forgotten():
    log = tail()
    app = WidgetApp(log)
    async with app.run_test(size=(60, 6)) as pilot:
        for start in range(0, MOST + 500, 500):
            log.add(row(n) for n in range(start, start + 500))
        await pilot.pause()
        assert len(log.rows) == MOST
        assert app.text()[-1].endswith(f"line {MOST + 499}")
        log.clear()
        await pilot.pause()
        assert "Nothing logged yet." in app.text()[0]


async def test_who_reads_old_lines_keeps_them_while_older_ones_are_forgotten():
    log = tail()
    app = WidgetApp(log)
    async with app.run_test(size=(60, 6)) as pilot:
        log.add(row(n) for n in range(MOST))
        await pilot.pause()
        await pilot.press(*["pageup"] * 40)
        before = app.text()
        log.add(row(n) for n in range(MOST, MOST + 700))
        await pilot.pause()
        assert app.text() == before
        await pilot.press("home")
        assert app.text()[0].endswith("line 700")
        log.add(row(n) for n in range(MOST + 700, MOST + 710))
        await pilot.pause()
        assert app.text()[0].endswith("line 710")  # those that were looked at are gone


async def test_a_hidden_log_has_it_all_when_it_is_shown():
    log = tail()
    log.display = False
    app = WidgetApp(log)
    async with app.run_test(size=(40, 6)) as pilot:
        log.add([row(0, "word " * 20), *(row(n) for n in range(1, 90))])
        log.display = True
        await pilot.pause()
        assert app.text()[-1].endswith("line 89")
        log.display = False
        await pilot.pause()
        log.add(row(n) for n in range(90, MOST + 200))
        log.display = True
        await pilot.pause()
        assert app.text()[-1].endswith(f"line {MOST + 199}")
        log.focus()
        await pilot.press("home")
        assert app.text()[0].endswith("line 200")


@pytest.mark.parametrize("text", ["", "a", "a b", "abc def ghi", "x" * 30, "漢字 " * 9, "a  b"])
def test_wrapping_loses_no_letter(text):
    pieces = wrapped(text, 8)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert all(len(piece) <= 8 for piece in pieces)


async def test_importance_draws_bars_and_says_where_they_come_from():
    bars = Importance()
    app = WidgetApp(bars)
    async with app.run_test(size=(60, 10)) as pilot:
        await pilot.pause()
        assert "Not estimated yet." in "\n".join(app.text())
        bars.show((("num_hidden_layers", 0.6), ("hidden_act", 0.3), ("head_size", 0.1)), "fanova, 60 trials")
        await pilot.pause()
        text = app.text()
        layers, act = (next(line for line in text if name in line) for name in ("num_hidden_layers", "hidden_act"))
        assert layers.count("█") == pytest.approx(2 * act.count("█"), abs=1)
        assert "60%" in layers and "fanova, 60 trials" in "\n".join(text)


async def test_importance_asks_a_process_and_says_its_fault(tmp_path):
    bars = Importance()
    app = WidgetApp(bars)
    async with app.run_test(size=(80, 10)) as pilot:
        await pilot.pause()
        bars.ask("nothing", f"sqlite:///{tmp_path / 'none.db'}", 20, (-0.06, 0.6))
        await pilot.pause()
        assert "Estimating" in "\n".join(app.text())
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert "none.db" in "".join(line.strip() for line in app.text())
        asked = bars._asked
        bars.ask("nothing", f"sqlite:///{tmp_path / 'none.db'}", 21, (-0.06, 0.6))
        assert bars._asked is asked, "one more trial is no reason to estimate again"


def test_the_machine_can_always_be_read():
    probe = Probe()
    try:
        readings = probe.read()
    finally:
        probe.close()
    assert readings
    for reading in readings:
        assert 0 < reading.used_gib <= reading.total_gib


def test_gpus_are_read_where_there_are_some_and_left_out_when_they_fail(monkeypatch):
    class LostError(Exception):
        pass

    def memory(handle):
        if handle == 1:
            raise LostError
        return SimpleNamespace(used=31 * 1024**3, total=139 * 1024**3)

    nvml = SimpleNamespace(
        NVMLError=LostError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=87),
        nvmlDeviceGetMemoryInfo=memory,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetTemperature=lambda handle, sensor: 64,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (reading,) = Probe().read()
    assert str(reading) == "gpu0 87% 31/139G" and reading.celsius == 64


def test_devices_have_a_line_each_over_the_time_of_the_trials():
    history = [
        (100.0, (Reading("gpu0", 0.1, 30.0, 139.0, 60.0), Reading("gpu1", float("nan"), 1.0, 139.0))),
        (130.0, (Reading("gpu0", 0.9, 31.0, 139.0, 64.0), Reading("gpu1", float("nan"), 1.0, 139.0))),
        (135.0, (Reading("gpu0", 1.0, 31.0, 139.0, 64.0), Reading("gpu1", float("nan"), 1.0, 139.0))),
    ]
    edges = np.linspace(90.0, 140.0, 6)
    assert means(history, "gpu0", edges).tolist() == pytest.approx(
        [float("nan"), 0.1, float("nan"), float("nan"), 0.95], nan_ok=True
    )
    sketch = Sketch(30, 3)
    draw_doubtful(sketch, 0, 20, np.array([1, 4]))
    draw_devices(sketch, 1, 20, edges, history)
    lines = ["".join(text for text, _ in row) for row in sketch.rows()]
    assert lines[0].startswith("doubtful latency") and lines[0][20:25] == " !  !"
    assert lines[1].startswith("gpu0 100% 64°C 31G") and lines[1][20:25] == " ▁  █"
    assert lines[2].startswith("gpu1 – 1G") and not lines[2][20:].strip()
    draw_devices(sketch, 0, 20, edges, [])
