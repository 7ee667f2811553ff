"""Text from outside: nothing that it holds moves a cursor, sets a title, turns the direction or marks up a document."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.system.text import Markdown, clean, code, escaped, markdown

HOSTILE = {
    "a title": "\x1b]0;owned\x07",
    "the clipboard": "\x1b]52;c;aGk=\x07",
    "a bell": "\a",
    "C1": "\x9b31m\x85\x90",
    "a right-to-left override": "safe\u202egpj.exe",
    "an isolate": "\u2066x\u2069",
    "a forged line": "done\r\nkdnas: all is well",
    "a line end of Unicode": "a\u2028b\u2029c",
    "half a letter": "\udc9b",
    "a delete": "\x7f",
}
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_control_character_is_left(kind: str) -> None:
    said = clean(HOSTILE[kind])
    assert not UNSEEN.search(said) and said.isprintable()
    assert not UNSEEN.search(escaped(json.dumps(HOSTILE[kind], ensure_ascii=False)))
    assert not UNSEEN.search(markdown(HOSTILE[kind])) and not UNSEEN.search(code(HOSTILE[kind]))


def test_what_can_be_shown_stays_as_it_is() -> None:
    for text in ("plain", "Zürich · 東京 − 100 %", "e\u0301", "🙂"):
        assert clean(text) is text
    assert clean("a\tb\nc\u00a0d") == "a b c d"
    assert clean("a\x1bb") == "a�b"


@given(st.text(st.characters(exclude_categories=())))
def test_escaped_json_says_the_same(text: str) -> None:
    said = escaped(json.dumps({"x": text}, ensure_ascii=False))
    assert json.loads(said) == {"x": text}
    said.encode()


def test_markdown_marks_nothing_up() -> None:
    assert markdown("a|b") == "a\\|b"
    assert markdown("x\n# Heading\n---\n") == "x \\# Heading --- "
    assert markdown("<script>&amp;") == "&lt;script&gt;&amp;amp;"
    assert markdown("[a](b) ![c](d) `e` *f* ~g~ $h$ \\") == (
        "\\[a\\](b) !\\[c\\](d) \\`e\\` \\*f\\* \\~g\\~ \\$h\\$ \\\\"
    )
    assert markdown("num_hidden_layers _em_") == "num_hidden_layers \\_em\\_"
    assert markdown(Markdown("**bold**")) == "**bold**"
    assert markdown(3.5) == "3.5"


def test_a_code_span_cannot_be_closed_from_within() -> None:
    assert code("a") == "`a`"
    assert code("a`b") == "`` a`b ``"
    assert code("``` | ```") == "```` ``` | ``` ````"
    assert code("\n") == "` `"
