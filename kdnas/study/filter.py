"""The one filter language of table, plots, export and command line: `state:done latency<8 layers>=4 act:gelu`.

Parses text to a frozen Filter; `filter_masks` says which trials pass it. Reads no store and draws nothing. A mistake
is a FilterError that knows which letters of the text to underline.

    comparisons   latency<8  latency<8ms  params<=14M  speedup>3x  reward!=0.8  loss=0.14
    choices       state:done,pruned  layers:4,6  act:gelu  origin=random
    facts         is:front  is:tie  is:marked  is:ranked  is:flagged  is:repeated
                  is:feasible  is:infeasible
    words         tag:keep  note:"try again"  gelu  "two words"  #413
    together      a b (both)  a and b  a or b  not a  (a or b) c
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from kdnas.study.rows import TrialRow
from kdnas.study.states import TrialState
from kdnas.system.errors import UsageError, nearest
from kdnas.system.text import clean


class FilterError(UsageError):
    """A filter that cannot be read; `text[start:end]` is where."""

    def __init__(self, text: str, start: int, end: int, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.text = text
        self.start = start
        self.end = max(end, start + 1)

    @property
    def underlined(self) -> tuple[str, str]:
        """The filter and a line of `^` below the fault, for the command line."""
        return clean(self.text), " " * self.start + "^" * (self.end - self.start)


@dataclass(frozen=True)
class Column:
    """What a key of the language stands for. `unit` says which suffixes a number may carry."""

    name: str
    about: str
    unit: str  # ms | s | MiB | count | times | share | plain | text | words | tag | state
    field: str | None = None  # of a TrialRow; None for what is computed from several


COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("number", "trial number", "plain", "number"),
        Column("slot", "place in the budget", "plain", "slot"),
        Column("rank", "place by reward, 1 the best", "plain"),
        Column("reward", "reward at the present α and β", "plain"),
        Column("predicted", "reward that the controller predicted", "plain", "predicted"),
        Column("loss", "loss that the reward sees", "plain"),
        Column("normalised", "normalised loss", "plain", "loss"),
        Column("raw", "raw loss", "plain", "raw_loss"),
        Column("spread", "spread of the loss over repeats", "plain", "loss_spread"),
        Column("repeats", "evaluations beside the first", "plain", "repeats"),
        Column("latency", "median latency, for one time of the teacher", "ms", "latency_ms"),
        Column("p90", "90 % of the passes were faster", "ms", "latency_p90_ms"),
        Column("low", "lower end of the median's 95 % interval", "ms", "latency_low_ms"),
        Column("high", "upper end of the median's 95 % interval", "ms", "latency_high_ms"),
        Column("interval", "width of the median's 95 % interval", "ms"),
        Column("half", "half of that interval, the ± of the latency", "ms"),
        Column("teacher", "the teacher's latency beside it", "ms", "teacher_latency_ms"),
        Column("speedup", "teacher's latency over the student's", "times"),
        Column("params", "parameters", "count", "parameters"),
        Column("memory", "peak memory while it trained", "MiB", "memory_mib"),
        Column("epoch", "finished epochs", "plain", "epoch"),
        Column("epochs", "epochs in all", "plain", "epochs"),
        Column("rung", "how far it was taken: 0 as built, then each part of its epochs", "plain"),
        Column("progress", "how far the evaluation is", "share", "progress"),
        Column("seed", "seed of the evaluation", "plain", "seed"),
        Column("duration", "time from start to end", "s"),
        Column("worker", "number of the worker that evaluated it", "plain", "worker_id"),
        Column("state", "running, waiting, done, pruned, failed, reused, lost", "state", "state"),
        Column("origin", "strategy, controller, random or enqueued", "text", "origin"),
        Column("phase", "building, timing, training, scoring or waiting for latency", "text", "phase"),
        Column("flag", "why the latency is doubtful", "words", "latency_flag"),
        Column("error", "why it failed", "words", "error"),
        Column("note", "what was noted on it", "words", "note"),
        Column("tag", "one of its tags", "tag", "tags"),
    )
}

SHORT = {
    "#": "number", "lat": "latency", "±": "half", "+": "half", "x": "speedup", "×t": "speedup", "xt": "speedup",
    "parameters": "params", "tags": "tag", "time": "duration", "l": "layers", "h": "width", "a": "heads",
}  # fmt: skip
"""Other names of columns and sizes: every heading of the table of trials is among them, as is its ASCII form."""

ALIASES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "dim", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_heads", "n_head"),
    "head": ("head_size", "head_dim"),
    "ffn": ("intermediate_size", "hidden_dim", "n_inner"),
    "act": ("hidden_act", "activation", "activation_function"),
    "cell": ("cell", "cell_type"),
}
"""Short names of configuration keys, with the names that families of models give them; the first found counts."""

COMMON_KEYS = frozenset(key for keys in ALIASES.values() for key in keys) | {"model_type", "num_key_value_heads", "r"}

STATES = tuple(TrialState)

FACTS = {
    "front": "on the Pareto front",
    "tie": "cannot be told from a better one",
    "ranked": "has a rank",
    "marked": "marked",
    "flagged": "its latency is doubtful",
    "repeated": "evaluated again with other seeds",
    "feasible": "has a result that keeps all constraints",
    "infeasible": "has a result that misses a constraint",
}

UNITS: dict[str, dict[str, float]] = {
    "ms": {"ms": 1.0, "s": 1000.0, "us": 1e-3, "µs": 1e-3},
    "s": {"s": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0, "h": 3600.0},
    "MiB": {"mib": 1.0, "mb": 1.0, "m": 1.0, "gib": 1024.0, "gb": 1024.0, "g": 1024.0},
    "count": {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9},
    "times": {"x": 1.0, "×": 1.0},
    "share": {"%": 0.01},
    "plain": {},
}
_UNIT_WORDS = {
    "ms": "Give milliseconds, as in 8 or 8ms.",
    "s": "Give seconds, as in 90, 90s or 1.5min.",
    "MiB": "Give MiB, as in 512, 512MiB or 2GiB.",
    "count": "Give a count, as in 14000000, 14M or 500k.",
    "times": "Give a factor, as in 3 or 3x.",
    "share": "Give a share, as in 0.5 or 50%.",
    "plain": "Give a plain number.",
}
_NUMBER = re.compile(r"([+-]?(?:[0-9]+(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?[0-9]{1,3}))?)([^0-9.]*)")
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<open>\()|(?P<close>\))|(?P<op><=|>=|!=|==|[<>=:≤≥≠])|(?P<bang>!)"""
    r"""|(?P<string>"[^"]*"|'[^']*')|(?P<quote>["'])|(?P<word>[^\s()<>=!:≤≥≠"']+)"""
)
_SAME = {"==": "=", "≤": "<=", "≥": ">=", "≠": "!="}
_DEEPEST = 40
_LONGEST = 10_000  # characters
_SHOWN = 60  # of one that is longer


@dataclass(frozen=True)
class Number:
    """A number as it was written: `=` means equal to as many digits as were given."""

    value: float
    half: float  # half of the last digit given


@dataclass(frozen=True)
class Everything:
    pass


@dataclass(frozen=True)
class Compare:
    key: str  # a name of COLUMNS or ALIASES, or a configuration key
    op: str  # < <= > >= = != :
    wanted: tuple[Number | str, ...]  # one of these; a single number for < <= > >=


@dataclass(frozen=True)
class Fact:
    name: str


@dataclass(frozen=True)
class Word:
    text: str  # lower case


@dataclass(frozen=True)
class Not:
    part: Node


@dataclass(frozen=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Node, ...]


Node = Everything | Compare | Fact | Word | Not | And | Or


@dataclass(frozen=True)
class Filter:
    """A parsed filter. Two filters that mean the same words are equal."""

    root: Node
    text: str = field(compare=False)

    @property
    def empty(self) -> bool:
        return isinstance(self.root, Everything)


def parse(text: str, keys: Iterable[str] = ()) -> Filter:
    """The filter that the text says; empty text lets everything pass.

    `keys` are the configuration keys and figures that the study's trials have (`keys_of`), beside the common ones.
    Raises FilterError.
    """
    return Filter(_Parser(text, COMMON_KEYS.union(keys)).parse(), text)


def keys_of(rows: Sequence[TrialRow]) -> frozenset[str]:
    """Every candidate key, configuration key and recipe's figure that occurs in the first hundred rows."""
    found: set[str] = set()
    for row in rows[:100]:
        found.update(row.candidate, row.config, row.extra)
    return frozenset(found)


def lookup(row: TrialRow, key: str) -> Any:
    """A candidate's or configuration's value, or a figure of the recipe, by name or short name; else None."""
    for name in ALIASES.get(key, (key,)):
        for values in (row.candidate, row.config, row.extra):
            if name in values:
                return values[name]
    return None


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    """Recursive descent; `or` binds loosest, then `and` or mere adjacency, then `not`."""

    def __init__(self, text: str, keys: frozenset[str]) -> None:
        if len(text) > _LONGEST:
            problem = f"The filter has {len(text):,} characters; {_LONGEST:,} are the most."
            raise FilterError(text[:_SHOWN], 0, _SHOWN, problem, "Leave conditions out, or take a range.")
        self.text = text
        self.keys = keys
        self.tokens = self._tokens()
        self.place = 0
        self.depth = 0

    def parse(self) -> Node:
        if not self.tokens:
            return Everything()
        node = self._or()
        if self.place < len(self.tokens):
            token = self.tokens[self.place]
            self._fail(token, "This ) closes nothing.", "Take it away or open a ( before it.")
        return node

    def _tokens(self) -> list[_Token]:
        found = []
        for match in _TOKEN.finditer(self.text):
            kind = match.lastgroup or ""
            if kind == "quote":
                raise FilterError(
                    self.text, match.start(), len(self.text), "This quotation mark is not closed.", "Close it."
                )
            if kind != "space":
                found.append(_Token(kind, match.group(), match.start(), match.end()))
        return found

    def _fail(self, token: _Token, problem: str, hint: str) -> NoReturn:
        raise FilterError(self.text, token.start, token.end, problem, hint)

    def _ahead(self, offset: int = 0) -> _Token | None:
        place = self.place + offset
        return self.tokens[place] if place < len(self.tokens) else None

    def _keyword(self, *words: str) -> bool:
        token, after = self._ahead(), self._ahead(1)
        return (
            token is not None
            and token.kind == "word"
            and token.text.lower() in words
            and not (after is not None and after.kind == "op")
        )

    def _or(self) -> Node:
        parts = [self._and()]
        while self._keyword("or"):
            self.place += 1
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _and(self) -> Node:
        parts = [self._not()]
        while (token := self._ahead()) is not None and token.kind != "close" and not self._keyword("or"):
            if self._keyword("and"):
                self.place += 1
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _not(self) -> Node:
        negate = False
        while (token := self._ahead()) is not None and (token.kind == "bang" or self._keyword("not")):
            self.place += 1
            negate = not negate
        node = self._atom()
        return Not(node) if negate else node

    def _atom(self) -> Node:
        token = self._ahead()
        if token is None:
            last = self.tokens[-1]
            self._fail(last, f"Something is missing after {last.text}.", "Write a condition there, or take it away.")
        if token.kind == "open":
            return self._group(token)
        if token.kind == "close" or self._keyword("and", "or"):
            self._fail(token, f"A condition is missing before {token.text}.", "Write one, as in latency<8.")
        if token.kind == "op":
            self._fail(token, f"There is no key before {token.text}.", "Write one, as in latency<8.")
        self.place += 1
        operator = self._ahead()
        if operator is not None and operator.kind == "op":
            if token.kind == "string":
                self._fail(token, f"A key stands without quotation marks: {token.text}.", "Take them away.")
            self.place += 1
            return self._comparison(token, operator)
        word = _unquoted(token)
        if token.kind == "word" and re.fullmatch(r"#[0-9]{1,9}", word):
            return Compare("number", "=", (Number(float(word[1:]), 0.5),))
        return Word(word.lower())

    def _group(self, opening: _Token) -> Node:
        self.place += 1
        self.depth += 1
        if self.depth > _DEEPEST:
            self._fail(opening, f"More than {_DEEPEST} parentheses lie in each other.", "Take some away.")
        after = self._ahead()
        if after is not None and after.kind == "close":
            raise FilterError(
                self.text, opening.start, after.end, "Nothing stands in these parentheses.", "Take them away."
            )
        if after is None:
            self._fail(opening, "This ( is not closed.", "Add a ) after the condition.")
        node = self._or()
        closing = self._ahead()
        if closing is None or closing.kind != "close":
            self._fail(opening, "This ( is not closed.", "Add a ) after the condition.")
        self.place += 1
        self.depth -= 1
        return node

    def _comparison(self, key: _Token, operator: _Token) -> Node:
        value = self._ahead()
        if value is None or value.kind not in ("word", "string"):
            raise FilterError(
                self.text, key.start, operator.end, f"A value is missing after {key.text}{operator.text}.", "Write one."
            )
        self.place += 1
        op = _SAME.get(operator.text, operator.text)
        if key.text.lower() == "is":
            return self._fact(key, op, value)
        name = self._resolve(key)
        column = COLUMNS.get(name)
        wanted = [_unquoted(value)] if value.kind == "string" else [part for part in value.text.split(",") if part]
        if not wanted and value.kind == "word":
            self._fail(value, "There is only a comma.", "Write values between commas, as in layers:4,6.")
        orders = op not in ("=", "!=", ":")
        if orders and len(wanted) > 1:
            self._fail(value, f"{op} compares with one value, not {len(wanted)}.", "Give one.")
        if column is not None and column.unit in UNITS:
            return Compare(name, op, tuple(self._number(name, column.unit, part, value) for part in wanted))
        if column is not None:
            if orders:
                hint = f"Write {name}:{value.text} or {name}!={value.text}."
                self._fail(operator, f"{name} is text and has no order.", hint)
            if column.unit == "state":
                for part in wanted:
                    if part.lower() not in STATES:
                        self._fail(value, f"There is no state {part!r}.", nearest(part.lower(), STATES))
            return Compare(name, op, tuple(part.lower() for part in wanted))
        either = tuple(read_number(part, UNITS["count"]) or part.lower() for part in wanted)
        if orders and isinstance(either[0], str):
            hint = f"Write {key.text}:{value.text} for text."
            self._fail(value, f"{op} needs a number, and {value.text} is none.", hint)
        return Compare(name, op, either)

    def _fact(self, key: _Token, op: str, value: _Token) -> Node:
        if op not in (":", "=", "!="):
            self._fail(key, f"is has no order: is{op}{value.text}.", f"Write is:{value.text}.")
        name = _unquoted(value).lower()
        if name not in FACTS:
            self._fail(value, f"There is no is:{name}.", nearest(name, FACTS))
        return Not(Fact(name)) if op == "!=" else Fact(name)

    def _resolve(self, key: _Token) -> str:
        lower = key.text.lower()
        lower = lower if key.text in self.keys else SHORT.get(lower, lower)
        if lower in COLUMNS or lower in ALIASES:
            return lower
        for name in (key.text, lower):
            if name in self.keys:
                return name
        known = [*COLUMNS, *ALIASES, "is", *sorted(self.keys - COMMON_KEYS), *sorted(COMMON_KEYS)]
        self._fail(key, f"There is no key {key.text!r}.", nearest(lower, known))

    def _number(self, key: str, unit: str, text: str, value: _Token) -> Number:
        number = read_number(text, UNITS[unit])
        if number is None:
            self._fail(value, f"{text!r} is no number for {key}.", _UNIT_WORDS[unit])
        return number


def _unquoted(token: _Token) -> str:
    return token.text[1:-1] if token.kind == "string" else token.text


def read_number(text: str, units: Mapping[str, float]) -> Number | None:
    """A number with one of these suffixes, or None."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    digits, decimals, bare_decimals, exponent, suffix = match.groups()
    scale = 1.0 if not suffix else units.get(suffix.lower())
    if scale is None:
        return None
    power = int(exponent or 0) - len(decimals or bare_decimals or "")
    half = 0.5 * 10.0 ** max(-300, min(300, power)) * scale
    return Number(float(digits) * scale, half)
