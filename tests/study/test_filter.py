"""The filter language: what passes, what fails and where the fault is underlined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.study.filter import (
    COLUMNS,
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
)
from kdnas.study.ranked_rows import passing as let_through
from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import Scored
from kdnas.study.rows import TrialRow
from tests.rows import made_row, made_rows

SCORED = rank(
    [
        *made_rows(40),
        replace(made_row(40, act="relu"), marked=True, tags=("keep", "tiny"), note="Try again with 20 epochs"),
        replace(made_row(41, loss=0.9), latency_flag="unsettled", extra={"accuracy": 0.81}),
    ],
    -0.06,
    0.6,
)


def passing(text: str, scored: Sequence[Scored] = SCORED, keys: Iterable[str] = ("accuracy",)) -> set[int]:
    return {s.number for s in let_through(parse(text, keys), scored)}


def passes(text: str, row: TrialRow, keys: Iterable[str] = ()) -> bool:
    return bool(passing(text, rank([row], -0.06, 0.6), keys))


def where(test) -> set[int]:
    return {s.number for s in SCORED if test(s)}


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("", lambda s: True),
        ("  ", lambda s: True),
        ("state:done", lambda s: s.row.state == "done"),
        ("state:done,pruned", lambda s: s.row.state in ("done", "pruned")),
        ("state!=done", lambda s: s.row.state != "done"),
        ("latency<4", lambda s: s.row.latency_ms < 4),
        ("latency<4ms", lambda s: s.row.latency_ms < 4),
        ("latency<0.004s", lambda s: s.row.latency_ms < 4),
        ("lat <= 4", lambda s: s.row.latency_ms <= 4),
        ("params<=10M", lambda s: s.row.parameters <= 10e6),
        ("params > 9500k", lambda s: s.row.parameters > 9.5e6),
        ("speedup>3x", lambda s: s.row.speedup > 3),
        ("layers>=4", lambda s: s.row.config["num_hidden_layers"] >= 4),
        ("num_hidden_layers≥4", lambda s: s.row.config["num_hidden_layers"] >= 4),
        ("layers:4,6", lambda s: s.row.config["num_hidden_layers"] in (4, 6)),
        ("width>200", lambda s: s.row.config["hidden_size"] > 200),
        ("act:gelu", lambda s: s.row.config["hidden_act"] == "gelu"),
        ("act!=gelu", lambda s: s.row.config["hidden_act"] != "gelu"),
        ("ACT:GELU", lambda s: s.row.config["hidden_act"] == "gelu"),
        ("gelu", lambda s: s.row.config["hidden_act"] == "gelu"),
        ("not gelu", lambda s: s.row.config["hidden_act"] != "gelu"),
        ("!gelu", lambda s: s.row.config["hidden_act"] != "gelu"),
        ("not not gelu", lambda s: s.row.config["hidden_act"] == "gelu"),
        ("gelu or relu", lambda s: s.row.config["hidden_act"] in ("gelu", "relu")),
        ("gelu and latency<4", lambda s: s.row.config["hidden_act"] == "gelu" and s.row.latency_ms < 4),
        (
            "state:done latency<4 layers>=2 act:gelu",
            lambda s: s.row.state == "done" and s.row.latency_ms < 4 and s.row.config["hidden_act"] == "gelu",
        ),
        (
            "relu or gelu latency<4",
            lambda s: (
                s.row.config["hidden_act"] == "relu" or (s.row.config["hidden_act"] == "gelu" and s.row.latency_ms < 4)
            ),
        ),
        ("(relu or gelu) latency<4", lambda s: s.row.config["hidden_act"] in ("relu", "gelu") and s.row.latency_ms < 4),
        ("not (relu or gelu)", lambda s: s.row.config["hidden_act"] == "silu"),
        ("is:front", lambda s: s.front),
        ("is!=front", lambda s: not s.front),
        ("is:tie", lambda s: s.tie),
        ("is:marked", lambda s: s.row.marked),
        ("is:flagged", lambda s: s.row.latency_flag is not None),
        ("rank<=5", lambda s: s.rank is not None and s.rank <= 5),
        ("not rank<=5", lambda s: s.rank is None or s.rank > 5),
        ("reward>0.5", lambda s: s.reward is not None and s.reward > 0.5),
        ("tag:keep", lambda s: "keep" in s.row.tags),
        ("tag:KEEP,other", lambda s: "keep" in s.row.tags),
        ("note:again", lambda s: "again" in s.row.note),
        ('"try again"', lambda s: s.number == 40),
        ("'20 epochs'", lambda s: s.number == 40),
        ("tiny", lambda s: s.number == 40),
        ("error:number", lambda s: s.row.error is not None),
        ("#17", lambda s: s.number == 17),
        ("#=17", lambda s: s.number == 17),
        ("accuracy>80e-2", lambda s: s.number == 41),
        ("progress<100%", lambda s: s.row.progress < 1),
        ("duration>=1min", lambda s: s.row.ended is not None),
        ("origin:strategy", lambda s: True),
        ("312", lambda s: 312 in (*s.row.config.values(), *s.row.candidate.values())),
    ],
)
def test_what_passes(text, test):
    expected = where(test)
    assert passing(text) == expected
    assert expected, "the example finds nothing and so shows nothing"


def test_equality_takes_as_many_digits_as_were_written():
    row = made_row(0, loss=0.1421, parameters=14_230_000)
    for text, expected in [
        ("loss=0.14", True),
        ("loss=0.142", True),
        ("loss=0.1421", True),
        ("loss=0.143", False),
        ("loss!=0.14", False),
        ("params=14M", True),
        ("params=14.2M", True),
        ("params=14.3M", False),
        ("layers=4", True),
        ("layers=5", False),
    ]:
        assert passes(text, row) is expected, text


def test_a_missing_value_passes_no_comparison():
    row = made_row(0, state="running", loss=None)
    for op in ("<", "<=", ">", ">=", "=", "!="):
        assert not passes(f"loss{op}0.5", row)
    assert passes("not loss<0.5", row)


def test_reward_is_that_of_the_present_alpha():
    row = made_row(0, reward=0.9)
    (scored,) = rank([row], -0.3, 0.6)
    assert scored.reward is not None and scored.reward > 1
    assert let_through(parse("reward>1"), [scored]) == [scored]
    assert not passes("reward>1", row)


@pytest.mark.parametrize(
    ("text", "underlined", "words"),
    [
        ("latncy<8", "latncy", "Did you mean 'latency'?"),
        ("state:done layrs>=4", "layrs", "Did you mean 'layers'?"),
        ("accurcy>0.8", "accurcy", "Did you mean 'accuracy'?"),
        ("state:dome", "dome", "Did you mean 'done'?"),
        ("is:frnt", "frnt", "Did you mean 'front'?"),
        ("latency<fast", "fast", "Give milliseconds"),
        ("latency<8M", "8M", "Give milliseconds"),
        ("params<8ms", "8ms", "Give a count"),
        ("state:done latency<", "latency<", "A value is missing"),
        ("latency<<8", "latency<", "A value is missing"),
        ("<8", "<", "no key before"),
        ("state<done", "<", "no order"),
        ("act<gelu", "gelu", "needs a number"),
        ("layers<4,6", "4,6", "one value"),
        ("(state:done", "(", "not closed"),
        ("state:done)", ")", "closes nothing"),
        ("()", "()", "Nothing stands"),
        ("state:done and", "and", "missing after and"),
        ("or state:done", "or", "missing before or"),
        ("a or or b", "or", "missing before or"),
        ("not", "not", "missing after not"),
        ('note:"half', '"half', "not closed"),
        ('"latency"<8', '"latency"', "without quotation marks"),
        ("state:,", ",", "only a comma"),
        ("(" * 60 + "a" + ")" * 60, "(", "More than"),
    ],
)
def test_a_fault_is_underlined_and_says_the_hint(text, underlined, words):
    with pytest.raises(FilterError) as raised:
        parse(text, {"accuracy"})
    error = raised.value
    assert text[error.start : error.end] == underlined
    assert words in str(error)
    assert error.hint
    assert error.exit_code == 2
    assert error.underlined[1] == " " * error.start + "^" * len(underlined)


def test_filters_that_say_the_same_are_equal():
    assert parse("lat<8  and state:done") == parse("latency < 8 state:done")
    assert parse("") == parse("  ")
    assert hash(parse("a or b")) == hash(parse("a  or  b"))


def test_keys_of_a_study_become_known():
    rows = [replace(made_row(0), extra={"perplexity": 12.0})]
    with pytest.raises(FilterError):
        parse("perplexity<20")
    assert passes("perplexity<20", rows[0], keys_of(rows))


def test_short_names_find_what_each_family_calls_it():
    row = replace(made_row(0), candidate={"n_layer": 3, "n_embd": 256, "activation_function": "gelu_new"}, config={})
    for text in ("layers=3", "width=256", "act:gelu_new"):
        assert passes(text, row)
    assert lookup(row, "heads") is None


def test_a_filtered_list_keeps_its_order():
    for scored in (SCORED, SCORED[::-1], SCORED[5:20]):
        assert let_through(parse("state:done"), scored) == [s for s in scored if s.row.state == "done"]
        assert let_through(parse("rank<=3"), scored) == [s for s in scored if s.rank in (1, 2, 3)]
        assert let_through(parse(""), scored) == scored
    assert let_through(parse("state:done"), []) == []


@given(st.text(max_size=60))
def test_any_text_parses_or_says_where_it_fails(text):
    try:
        found = parse(text)
    except FilterError as error:
        assert 0 <= error.start < error.end <= max(1, len(text))
        assert error.problem and error.hint
    else:
        assert {s.number for s in let_through(found, SCORED[:10])} <= {s.number for s in SCORED[:10]}


pieces = st.sampled_from(
    ["latency", "layers", "act", "state", "done", "gelu", "is", "front", "not", "and", "or", "<", ">=", "!=", ":", "=",
     "(", ")", "!", "8", "14M", "1e999", "1e-999", ".5", "#3", "tag", '"', "'", ",", "×", "-", "nan", "inf", "²"]
)  # fmt: skip


@given(st.lists(pieces, max_size=12), st.sampled_from(["", " "]))
def test_any_run_of_words_parses_or_says_where_it_fails(words, between):
    test_any_text_parses_or_says_where_it_fails.hypothesis.inner_test(between.join(words))


NAIVE = {
    "number": lambda s: s.row.number,
    "epoch": lambda s: s.row.epoch,
    "state": lambda s: s.row.state,
    "latency": lambda s: s.row.latency_ms,
    "loss": lambda s: s.loss_used,
    "reward": lambda s: s.reward,
    "speedup": lambda s: s.row.speedup,
}


def naive(node: Node, s: Scored) -> bool:
    """The language once more, written as plainly as can be."""
    match node:
        case Everything():
            return True
        case And(parts):
            return all(naive(p, s) for p in parts)
        case Or(parts):
            return any(naive(p, s) for p in parts)
        case Not(part):
            return not naive(part, s)
        case Fact("front"):
            return s.front
        case Fact("marked"):
            return s.row.marked
        case Word(text):
            values = [*s.row.candidate.values(), *s.row.config.values(), *s.row.tags]
            texts = [v.lower() for v in values if isinstance(v, str)]
            return any(text in t for t in texts) or text in s.row.note.lower()
        case Compare(key, op, wanted):
            value = NAIVE[key](s) if key in NAIVE else lookup(s.row, key)
            if value is None:
                return False
            if isinstance(value, str):
                return (value.lower() in wanted) is (op != "!=")
            first = wanted[0]
            assert isinstance(first, Number)
            equal = any(isinstance(n, Number) and n.value - n.half <= value < n.value + n.half for n in wanted)
            return {
                "<": value < first.value,
                "<=": value <= first.value,
                ">": value > first.value,
                ">=": value >= first.value,
                "=": equal,
                ":": equal,
                "!=": not equal,
            }[op]
    raise AssertionError(node)


order = st.sampled_from(["<", "<=", ">", ">=", "=", "!="])
leaves = st.one_of(
    st.builds("{}{}{}".format, st.sampled_from(["latency", "reward", "loss", "speedup"]), order,
              st.floats(0, 12).map(lambda x: f"{x:.2f}")),
    st.builds("{}{}{}".format, st.sampled_from(["layers", "width", "epoch", "number"]), order, st.integers(0, 400)),
    st.builds("act{}{}".format, st.sampled_from([":", "=", "!="]), st.sampled_from(["gelu", "relu", "silu,gelu"])),
    st.builds("state{}{}".format, st.sampled_from([":", "!="]), st.sampled_from(["done", "pruned,failed"])),
    st.sampled_from(["is:front", "is:marked", "gelu", "bert", "keep", '"try again"', "EL"]),
)  # fmt: skip
sentences = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds("{} {}".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("{} and {}".format, inner, inner),
        st.builds("not ({})".format, inner),
    ),
    max_leaves=6,
)


@given(sentences)
def test_what_passes_agrees_with_a_naive_evaluator(text):
    found = parse(text)
    assert let_through(found, SCORED) == [s for s in SCORED if naive(found.root, s)]


@given(sentences, sentences)
def test_or_and_not_are_what_they_say(one, other):
    first, second = passing(one), passing(other)
    assert passing(f"({one}) or ({other})") == first | second
    assert passing(f"({one}) ({other})") == first & second
    assert passing(f"not ({one})") == {s.number for s in SCORED} - first


def test_every_column_can_be_compared():
    row = made_row(0)
    for name, column in COLUMNS.items():
        literal = {"state": "done", "text": "strategy", "words": "x", "tag": "x"}.get(column.unit, "1")
        assert passes(f"{name}:{literal}", row) in (True, False)
    assert all(name.isidentifier() for name in COLUMNS)
