"""Text from outside (notes, tags, errors, log lines) crashes no screen and sends no control character anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.style import Style

from kdnas.store import changes
from kdnas_tui import theme
from kdnas_tui.widgets.lines import differing, strip_of, wrapped
from tests.rows import made_rows
from tests.tui.driving import SIZES, app_on, driven, opened, settled, text_of, until
from tests.tui.filled import new_store, study

ODD = (
    "e\u0301 and o\u0308",  # letters of no width of their own
    "\u0301 at the start",
    "\x1b[31mred\x1b[0m and \x07 a bell",
    "a\tb\r\nc\x00\x9b2J",
    "\u2764\ufe0f \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",  # several letters, one sign
    "\u4e2d\u6587 \u202eright to left\u202c \u200bno width",
)
PIECES = st.lists(st.tuples(st.one_of(st.sampled_from(ODD), st.text(max_size=6)), st.booleans()), max_size=4)


def strip(pieces: list[tuple[str, bool]]):
    return strip_of((text, Style(bold=bold)) for text, bold in pieces)


@given(PIECES, PIECES)
def test_any_two_lines_can_be_compared(old: list[tuple[str, bool]], new: list[tuple[str, bool]]) -> None:
    before, after = strip(old), strip(new)
    span = differing(before, after)
    if span is not None:
        assert 0 <= span[0] < span[1] <= max(before.cell_length, after.cell_length)
    assert differing(before, strip(old)) is None


def test_a_mark_over_a_letter_is_a_difference_of_its_cell() -> None:
    assert differing(strip([("cafe", False)]), strip([("cafe\u0301", False)])) == (3, 4)


def test_lines_that_had_no_room_can_be_compared() -> None:
    old, new = (strip([(text, False)]).adjust_cell_length(-1) for text in ("abc", "a"))
    assert (old.cell_length, new.cell_length) == (-1, -1)
    assert differing(old, new) == (0, 2)


@pytest.mark.parametrize("word", [text.replace(" ", "") * 9 for text in ODD])
def test_long_words_of_such_letters_are_broken_and_lose_none(word: str) -> None:
    pieces = wrapped(word, 8)
    assert "".join(pieces) == word
    assert all(cell_len(piece) <= 8 for piece in pieces)


@pytest.mark.parametrize("text", ODD)
def test_what_is_sent_is_harmless_and_as_wide_as_before(text: str) -> None:
    sent = theme.harmless(text)
    assert cell_len(sent) == cell_len(text)
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in sent)
    assert cell_len(theme.plain(sent)) == cell_len(text)
    assert theme.plain(sent).isascii()


@pytest.mark.parametrize("size", ["48x40", "80x24", "120x36"])
@pytest.mark.parametrize("ascii_only", [False, True])
async def test_screens_draw_any_note_tag_error_and_log_line(size: str, ascii_only: bool, tmp_path: Path) -> None:
    _, store = new_store(tmp_path)
    rows = made_rows(12)
    with store:
        rows[0] = replace(rows[0], state="failed", error=ODD[2] + ODD[0])
        study_id = study(store, "odd", rows=rows, worker="running")
        for number, text in enumerate(ODD):
            changes.add_log(store, study_id, "info", text)
            changes.set_remark(store, study_id, number, note=text, tags=text.split())
        async with driven(app_on(store.url, ascii=ascii_only), SIZES[size]) as pilot:
            shown = await opened(pilot, "odd")
            for number, text in enumerate(ODD):
                shown.watched.point_at(number)  # each line below the table is compared with the one before
                changes.set_remark(store, study_id, number, note=text + text)
                await until(pilot, lambda number=number: note(shown, number) == ODD[number] * 2, "the note is read")
                await settled(pilot)
            for key in ("i", "escape", "left_square_bracket"):
                await pilot.press(key)
                await settled(pilot)
                sent = text_of(pilot.app).replace("\n", "")
                assert not [letter for letter in sent if ord(letter) < 32 or 127 <= ord(letter) < 160]
                assert sent.isascii() or not ascii_only


def note(shown, number: int) -> str | None:
    scored = shown.watched.trials.scored(number)
    return None if scored is None else scored.row.note


@pytest.mark.parametrize(
    ("encoding", "says"),
    [("utf-8", True), ("UTF-8", True), ("ascii", False), ("latin-1", False), (None, False), ("no such", False)],
)
def test_signs_are_drawn_only_where_the_encoding_has_them(encoding: str | None, says: bool) -> None:
    assert theme.can_say(encoding) is says
