"""Nothing on the screens is cut without a sign that says so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rich.text import Text
from textual.geometry import Region
from textual.widget import Widget

from kdnas.study.rows import LogRow
from kdnas.system.paths import presets
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.page import _block
from kdnas_tui.screens.panes import TABS
from kdnas_tui.screens.spec_fields import ENTRIES, first_comment, id_of
from kdnas_tui.widgets.controller import Controller
from kdnas_tui.widgets.log_tail import LogTail
from kdnas_tui.widgets.pareto_plot import ParetoPlot
from kdnas_tui.widgets.says import Says
from kdnas_tui.widgets.tab_bar import TabBar
from tests.tui.driving import SIZES, app_on, driven, listed, screen, until
from tests.tui.widget_apps import PATIENCE_S, WidgetApp


async def test_how_many_lines_a_search_found_stands_in_the_log_at_every_width() -> None:
    log = LogTail(clock=lambda moment: "00:00:00")
    app = WidgetApp(log)
    async with app.run_test(size=(38, 6)) as pilot:
        log.add(LogRow(n, 1, float(n), "info", f"trial {n} ended") for n in range(30))
        log.search("trial 1")
        await pilot.pause()
        assert app.text()[-1].strip() == "/trial 1: 11 · end to follow"
        assert any("trial 19 ended" in line for line in app.text()[:-1])
        await pilot.press("end")
        assert app.text()[-1].strip() == "/trial 1: 11" and "trial 29 ended" in app.text()[-2]
        log.search("")
        await pilot.pause()
        assert "trial 29 ended" in app.text()[-1]
        for _ in range(3):
            await pilot.press("up")
        assert not any("trial 29 ended" in line for line in app.text()) and "end to follow" in app.text()[-1]
        await pilot.press(*["down"] * 5)
        assert "trial 29 ended" in app.text()[-1] and log.following


async def test_the_titles_of_tabs_are_whole_or_marked() -> None:
    usual = tuple(tab for tab in TABS if tab[0] != "controller")
    bar = TabBar(usual, "trials")
    app = WidgetApp(bar)
    async with app.run_test(size=(76, 3)) as pilot:
        assert all(title in app.text()[0] for _, title in usual)
    for width in (46, 60):
        bar = TabBar(TABS, "trials")
        app = WidgetApp(bar)
        async with app.run_test(size=(width, 3)) as pilot:
            await pilot.pause()
            shown = app.text()[0].strip("─ ").split("│")
            assert shown[0].strip() == "Trials"
            for (_, title), said in zip(TABS, shown, strict=True):
                assert said.strip() == title or (said.endswith("…") and title.startswith(said[:-1]))


async def test_a_text_that_is_longer_than_its_place_ends_with_a_sign() -> None:
    says = Says()
    says.styles.height = 2
    app = WidgetApp(says)
    async with app.run_test(size=(30, 4)) as pilot:
        says.show(Text("Known: " + ", ".join(f"key{n}" for n in range(30))))
        await pilot.pause()
        assert app.text()[1].endswith(" …") and not app.text()[0].endswith("…")
        says.show(Text("Known: a, b"))
        await pilot.pause()
        assert app.text()[:2] == ["Known: a, b", ""]


@pytest.mark.parametrize("width", [24, 40, 90])
async def test_what_an_empty_plot_says_is_whole_and_a_long_remark_has_a_line_of_its_own(width: int) -> None:
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(width, 12)) as pilot:
        plot.empty = "No finished trial passes the filter."
        plot._draw_now()
        await pilot.pause()
        assert " ".join(" ".join(app.text()).split()).endswith("No finished trial passes the filter.")
    controller = Controller(period=0)
    app = WidgetApp(controller)
    async with app.run_test(size=(width, 12)) as pilot:
        controller.put = lambda: controller.plot([0, 1], [0, 1])  # type: ignore[method-assign]
        controller.remark = "episode 11  ε 0.45  rank agreement 0.62"
        controller._draw_now()
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            above = "\n".join(app.text()[:2])
            if controller.remark in above or "…" in above:
                break
            await pilot.pause(0.05)
        assert (controller.remark in above) is (width >= 40), app.text()


def test_what_a_spec_says_of_itself_is_a_whole_sentence() -> None:
    for name, path in presets().items():
        said = first_comment(path)
        assert said.endswith("."), (name, said)


@pytest.mark.parametrize("width", [42, 74, 94, 114, 194])
def test_a_page_of_facts_has_every_name_and_value_whole(width: int) -> None:
    long = "a_setting_whose_name_is_longer_than_any_place_on_a_page"
    pairs = [("attention_probs_dropout_prob", "0.1"), (long, "word " * 40)]
    block = [line.plain for line in _block("configuration", pairs, width)]
    assert all(len(line.rstrip()) <= width for line in block)
    where = block[1].index("0.1")
    names, values = ("".join(line[part].strip() for line in block[1:]) for part in (slice(where), slice(where, None)))
    assert names == f"attention_probs_dropout_prob{long}"
    assert values.count("word") == 40


@pytest.mark.parametrize("size", ["48x40", "80x24"])
async def test_what_a_field_of_the_form_is_for_is_told_whole(size: str, tmp_path: Path) -> None:
    async with driven(app_on(f"sqlite:///{tmp_path / 'k.db'}"), SIZES[size]) as pilot:
        await listed(pilot)
        await pilot.press("n")
        form = screen(pilot.app, NewStudyScreen)
        form.give_up_asking()
        hint, fields = form.query_one("#hint"), [(entry, form.query_one(f"#{id_of(entry.field)}")) for entry in ENTRIES]
        for entry, field in fields:
            field.focus()
            await until(pilot, lambda says=entry.says: drawn(hint).startswith(says), entry.says)  # type: ignore[misc]


def drawn(widget: Widget) -> str:
    """Its text without the breaks of its lines."""
    return " ".join("".join(strip.text for strip in widget.render_lines(Region(0, 0, *widget.outer_size))).split())
