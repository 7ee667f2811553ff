"""What a filter's text is parsed to, and every complaint to the letter: people mend their text by these."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdnas.study.filter import (
    And,
    Compare,
    Everything,
    Fact,
    FilterError,
    Node,
    Not,
    Number,
    Or,
    Word,
    keys_of,
    lookup,
    parse,
    read_number,
)
from tests.rows import made_row

VALUE, CONDITION, MORE = "Write one.", "Write one, as in latency<8.", "Write a condition there, or take it away."


@pytest.mark.parametrize(
    ("text", "at", "problem", "hint"),
    [
        ("latncy<8", 0, "There is no key 'latncy'.", "Did you mean 'latency'?"),
        ("a Layrs>=4", 2, "There is no key 'Layrs'.", "Did you mean 'layers'?"),
        ("accurcy>0.8", 0, "There is no key 'accurcy'.", "Did you mean 'accuracy'?"),
        ("state:done,dome", 6, "There is no state 'dome'.", "Did you mean 'done'?"),
        ("state:DOME", 6, "There is no state 'DOME'.", "Did you mean 'done'?"),
        ("is:Frnt", 3, "There is no is:frnt.", "Did you mean 'front'?"),
        ("is:q", 3, "There is no is:q.", "Known: front, tie, ranked, marked, flagged, repeated, feasible, infeasible."),
        ("is<front", 0, "is has no order: is<front.", "Write is:front."),
        ("latency<fast", 8, "'fast' is no number for latency.", "Give milliseconds, as in 8 or 8ms."),
        ("lat<8M", 4, "'8M' is no number for latency.", "Give milliseconds, as in 8 or 8ms."),
        ("duration<8M%", 9, "'8M%' is no number for duration.", "Give seconds, as in 90, 90s or 1.5min."),
        ("memory:1,x", 7, "'x' is no number for memory.", "Give MiB, as in 512, 512MiB or 2GiB."),
        ("params<8ms", 7, "'8ms' is no number for params.", "Give a count, as in 14000000, 14M or 500k."),
        ("speedup<8%", 8, "'8%' is no number for speedup.", "Give a factor, as in 3 or 3x."),
        ("progress<x", 9, "'x' is no number for progress.", "Give a share, as in 0.5 or 50%."),
        ("rank<8ms", 5, "'8ms' is no number for rank.", "Give a plain number."),
        ("state<done", 5, "state is text and has no order.", "Write state:done or state!=done."),
        ("act<gelu", 4, "< needs a number, and gelu is none.", "Write act:gelu for text."),
        ("layers≤4,6", 7, "<= compares with one value, not 2.", "Give one."),
        ("rank>=4,6", 6, ">= compares with one value, not 2.", "Give one."),
        ("state:,", 6, "There is only a comma.", "Write values between commas, as in layers:4,6."),
        ("latency <", 0, "A value is missing after latency<.", VALUE),
        ("a layers:", 2, "A value is missing after layers:.", VALUE),
        ("latency<<8", 0, "A value is missing after latency<.", VALUE),
        ("layers:(a)", 0, "A value is missing after layers:.", VALUE),
        ("q <8", 0, "There is no key 'q'.", None),
        ("<8", 0, "There is no key before <.", CONDITION),
        ("(a b) =8", 6, "There is no key before =.", CONDITION),
        ('"latency"<8', 0, 'A key stands without quotation marks: "latency".', "Take them away."),
        ("(a", 0, "This ( is not closed.", "Add a ) after the condition."),
        ("a (", 2, "This ( is not closed.", "Add a ) after the condition."),
        ("a) b", 1, "This ) closes nothing.", "Take it away or open a ( before it."),
        ("a ()", 2, "Nothing stands in these parentheses.", "Take them away."),
        ("a ( )", 2, "Nothing stands in these parentheses.", "Take them away."),
        ("(a and )", 7, "A condition is missing before ).", CONDITION),
        ("a and", 2, "Something is missing after and.", MORE),
        ("a not", 2, "Something is missing after not.", MORE),
        ("a or", 2, "Something is missing after or.", MORE),
        ("or a", 0, "A condition is missing before or.", CONDITION),
        ("a or or b", 5, "A condition is missing before or.", CONDITION),
        ("a AND And b", 6, "A condition is missing before And.", CONDITION),
        ("note:'half a", 5, "This quotation mark is not closed.", "Close it."),
        ("(" * 41 + "a" + ")" * 41, 40, "More than 40 parentheses lie in each other.", "Take some away."),
    ],
)
def test_a_complaint_says_what_is_wrong_where_and_what_to_do(
    text: str, at: int, problem: str, hint: str | None
) -> None:
    with pytest.raises(FilterError) as raised:
        parse(text, {"accuracy"})
    error = raised.value
    assert (error.start, error.problem) == (at, problem) and error.text == text
    if hint is not None:
        assert error.hint == hint
    assert error.start < error.end <= len(text)


def test_what_is_known_is_listed_with_columns_first_and_the_studys_own_keys_before_those_of_all() -> None:
    with pytest.raises(FilterError) as raised:
        parse("zqzq:1", {"accuracy", "zebra", "hidden_size"})
    names = raised.value.hint.removeprefix("Known: ").removesuffix(".").split(", ")
    assert names[:3] == ["number", "slot", "rank"]
    start = names.index("is")
    assert names[start - 1 : start + 4] == ["cell", "is", "accuracy", "zebra", "activation"]
    assert names[start + 3 :] == sorted(names[start + 3 :]) and names[-1] == "r"


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [("a ( )", 2, 5), ("note:'half a", 5, 12), ("a latency <", 2, 11), ("rank:x y", 5, 6), ("a) b", 1, 2)],
)
def test_the_fault_is_underlined_from_its_first_letter_to_its_last(text: str, start: int, end: int) -> None:
    with pytest.raises(FilterError) as raised:
        parse(text)
    assert (raised.value.start, raised.value.end) == (start, end)
    assert raised.value.underlined == (text, " " * start + "^" * (end - start))


def test_a_fault_of_no_length_is_still_underlined() -> None:
    assert (FilterError("ab", 1, 1, "p").end, FilterError("ab", 1, 1, "p").hint) == (2, "")
    assert (FilterError("abc", 0, 3, "p", "h").end, FilterError("abc", 0, 3, "p", "h").hint) == (3, "h")


def number(value: float, half: float = 0.5) -> Number:
    return Number(value, pytest.approx(half))  # type: ignore[arg-type]


A, B, C = Word("a"), Word("b"), Word("c")


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("", Everything()),
        ("Gelu", Word("gelu")),
        ("'Two Words'", Word("two words")),
        ("#17", Compare("number", "=", (number(17),))),
        ("'#17'", Word("#17")),
        ("#1234567890", Word("#1234567890")),
        ("a#17", Word("a#17")),
        ("#=17", Compare("number", "=", (number(17),))),
        ("a b", And((A, B))),
        ("a AND b c", And((A, B, C))),
        ("a or b c", Or((A, And((B, C))))),
        ("(a Or b) c", And((Or((A, B)), C))),
        ("a or b or c", Or((A, B, C))),
        ("((a))", A),
        ("not a", Not(A)),
        ("!a b", And((Not(A), B))),
        ("! not a", A),
        ("not (a b)", Not(And((A, B)))),
        ("not a or b", Or((Not(A), B))),
        ("is:Front", Fact("front")),
        ("IS=tie", Fact("tie")),
        ("is!=marked", Not(Fact("marked"))),
        ("not is!=marked", Not(Not(Fact("marked")))),
        ("or:1", None),  # a word before an operator is a key, here one that is not known
        ("lat≥4", Compare("latency", ">=", (number(4),))),
        ("LAT≤4", Compare("latency", "<=", (number(4),))),
        ("x≠4x", Compare("speedup", "!=", (number(4),))),
        ("params==14M", Compare("params", "=", (number(14e6, 5e5),))),
        ("layers:4,,6,gelu", Compare("layers", ":", (number(4), number(6), "gelu"))),
        ("act:GELU,Relu", Compare("act", ":", ("gelu", "relu"))),
        ("act:'GELU,Relu'", Compare("act", ":", ("gelu,relu",))),
        ("layers<2k", Compare("layers", "<", (number(2000, 500),))),
        ("state:Done,lost", Compare("state", ":", ("done", "lost"))),
        ("origin!=Strategy", Compare("origin", "!=", ("strategy",))),
        ("note:''", Compare("note", ":", ("",))),
        ("rank:'3'", Compare("rank", ":", (number(3),))),
        ("Accuracy>0.5", Compare("accuracy", ">", (number(0.5, 0.05),))),
        ("MyKey:1", Compare("MyKey", ":", (number(1),))),
    ],
)
def test_a_text_is_parsed_to_what_it_says(text: str, root: Node | None) -> None:
    keys = {"accuracy", "MyKey"}
    if root is None:
        with pytest.raises(FilterError, match="There is no key 'or'"):
            parse(text, keys)
        return
    found = parse(text, keys)
    assert found.root == root and found.text == text and found.empty is (text == "")


def test_as_many_parentheses_as_are_allowed_may_stand_in_and_beside_each_other() -> None:
    assert parse("(" * 40 + "a" + ")" * 40).root == A
    assert parse("(a) " * 100).root == And((A,) * 100)
    with pytest.raises(FilterError, match="More than 40 parentheses"):  # those that are closed make no room for more
        parse("(a) " * 9 + "(" * 41 + "a" + ")" * 41)


@pytest.mark.parametrize(
    ("text", "value", "half"),
    [
        ("8", 8.0, 0.5), ("8.", 8.0, 0.5), ("8.0", 8.0, 0.05), (".25", 0.25, 0.005), ("-3", -3.0, 0.5),
        ("+3", 3.0, 0.5),
        ("1.5e3", 1500.0, 50.0), ("2e-3", 0.002, 0.0005), ("1E2", 100.0, 50.0), ("3k", 3000.0, 500.0),
        ("1.5K", 1500.0, 50.0), ("1.25e1k", 12500.0, 50.0), ("1e999", float("inf"), 5e299), ("1e-999", 0.0, 5e-301),
    ],
)  # fmt: skip
def test_a_number_is_equal_to_the_digits_that_were_written(text: str, value: float, half: float) -> None:
    found = read_number(text, {"k": 1000.0})
    assert found is not None and found.value == value and found.half == pytest.approx(half, rel=1e-9, abs=0)


def test_what_is_no_number_or_has_another_unit_is_none() -> None:
    for text in ("", "x", "8m", "8kk", "k", "1e", "e3", "1.2.3", "--1", "²", "1e1000"):
        assert read_number(text, {"k": 1000.0}) is None, text


def test_keys_and_values_are_found_by_the_first_of_their_names_in_candidate_configuration_and_figures() -> None:
    row = replace(
        made_row(0),
        candidate={"n_layers": 3, "same": "candidate"},
        config={"num_hidden_layers": 4, "same": "config", "hidden_size": 64, "both": 1},
        extra={"accuracy": 0.5, "both": 2, "dim": 9.0},
    )
    found: dict[str, Any] = {key: lookup(row, key) for key in ("layers", "same", "width", "both", "accuracy", "heads")}
    assert found == {"layers": 4, "same": "candidate", "width": 64, "both": 1, "accuracy": 0.5, "heads": None}
    assert keys_of([row]) == {"n_layers", "same", "num_hidden_layers", "hidden_size", "both", "accuracy", "dim"}
    others = [replace(made_row(n), candidate={f"k{n}": 1}, config={}, extra={}) for n in range(102)]
    assert keys_of(others) == {f"k{n}" for n in range(100)}  # the first hundred tell
