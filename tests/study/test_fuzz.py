"""Whatever a spec, an exported file or a filter holds: a result, or one line with what was wrong. Never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from kdnas.study import export
from kdnas.study.filter import ALIASES, COLUMNS, FACTS, FilterError, parse
from kdnas.study.ranked_rows import passing, rank
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import assigned, overlay
from kdnas.study.spec_recipes import recipe_parts
from kdnas.study.spec_strategies import strategy_parts
from kdnas.study.spec_toml import read_toml, read_values, to_toml
from kdnas.system.errors import KdnasError
from tests import fuzzing
from tests.rows import made_rows
from tests.study import test_export


def fuzzed(strategy: st.SearchStrategy[Any]) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """The check with some hundred inputs, and for ten minutes among the long tests."""

    def over(check: Callable[[Any], None]) -> Callable[..., None]:
        @pytest.mark.parametrize("how", ["quick", pytest.param("thorough", marks=pytest.mark.long)])
        def test(how: str) -> None:
            if how == "quick":
                fuzzing.some(strategy, check, 150)
            else:
                fuzzing.for_minutes(strategy, check)

        return test

    return over


def refused_in_one_line(error: KdnasError) -> None:
    assert error.problem
    str(error).encode()


text = st.text(st.characters(exclude_categories=()), max_size=12)  # lone surrogates too
odd = st.sampled_from(["", "auto", "cuda:99", "\x00", "\udcff", "a\nb", "²", "nan", "1e999", True, None, -1, 0, 2**63])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-(10**30), 10**30), st.floats(), text, odd)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)


def fields_of(parts: dict[str, Any]) -> list[str]:
    return sorted({field for part in parts.values() for field in part.model_fields})


def part_of(fields: list[str]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(fields) | text, values, max_size=4) | values


def specs() -> st.SearchStrategy[Any]:
    found: dict[str, st.SearchStrategy[Any]] = {}
    for name, info in StudySpec.model_fields.items():
        fields = getattr(info.annotation, "model_fields", None)
        if fields is not None:
            found[name] = part_of(list(fields))
    for name, parts in (("recipe", recipe_parts()), ("strategy", strategy_parts())):
        named = st.tuples(st.sampled_from(sorted(parts)) | text, part_of(fields_of(parts)))
        found[name] = named.map(lambda pair: {**pair[1], "name": pair[0]} if isinstance(pair[1], dict) else pair[1])
    variants = st.dictionaries(text | st.just("a"), st.dictionaries(st.sampled_from(["teacher", "recipe"]), values))
    found["space"] |= st.fixed_dictionaries({"variants": variants})
    found |= {"name": text | values, "seed": values, "device": text | values}
    return st.fixed_dictionaries({}, optional=found) | st.dictionaries(text, values)


@fuzzed(specs())
def test_any_values_are_a_spec_or_are_refused(found: Any) -> None:
    try:
        spec = from_values(found)
    except KdnasError as error:
        refused_in_one_line(error)
    else:
        again = spec.model_dump(mode="json")
        json.dumps(again, allow_nan=False).encode()
        assert from_values(again) == spec
        to_toml(spec).encode()


toml_pieces = st.sampled_from(
    ["[", "]", "{", "}", "=", '"', "'", "\n", ",", ".", "#", "\\u", "\\", "0x", "1979-05-27T07:32:00Z", "inf", "nan",
     "9" * 40, "-", "[teacher]\n", "model = ", "[[space.choices]]\n", "true", "\ufeff", "\r", "\x00", "[" * 3000]
)  # fmt: skip


@fuzzed(st.lists(toml_pieces | st.text(max_size=6), max_size=12).map("".join).map(str.encode) | st.binary(max_size=60))
def test_any_file_is_a_spec_or_is_refused(written: bytes) -> None:
    path = scratch("spec.toml")
    path.write_bytes(written)
    try:
        spec = read_toml(path)
    except KdnasError as error:
        refused_in_one_line(error)
    else:
        path.write_text(to_toml(spec), encoding="utf-8")
        assert read_toml(path) == spec and read_values(path)


@fuzzed(st.lists(st.tuples(st.sampled_from(["seed", "reward.beta", "space.choices", "a.b.c", ""]), text), max_size=4))
def test_any_assignment_is_laid_over_or_refused(pairs: list[tuple[str, str]]) -> None:
    try:
        from_values(overlay({}, [assigned(f"{field}={value}") for field, value in pairs]))
    except KdnasError as error:
        refused_in_one_line(error)


def changed(body: Any, path: list[int], value: Any) -> Any:
    """The document with one place of it replaced; `path` picks a way down."""
    if not path or not isinstance(body, dict | list) or not body:
        return value
    if isinstance(body, list):
        place = path[0] % len(body)
        return [changed(each, path[1:], value) if i == place else each for i, each in enumerate(body)]
    key = sorted(body)[path[0] % len(body)]
    return {**body, key: changed(body[key], path[1:], value)}


@fuzzed(st.one_of(
    st.tuples(st.lists(st.integers(0, 30), max_size=5), values).map(lambda p: json.dumps(changed(BODY, *p)).encode()),
    values.map(lambda v: json.dumps(v).encode()),
    st.binary(max_size=40),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"\xef\xbb\xbf[]", b"NaN", b"9" * 5000]),
))  # fmt: skip
def test_any_file_is_an_export_or_is_refused(written: bytes) -> None:
    path = scratch("export.json")
    path.write_bytes(written)
    try:
        body = export.read(path)
        spec = export.spec_of(body)
    except KdnasError as error:
        refused_in_one_line(error)
    else:
        assert spec.name
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()


keys = st.sampled_from([*COLUMNS, *ALIASES, "is", "model_type", "cell"])
filter_pieces = st.one_of(
    keys, st.sampled_from([*FACTS, "<", "<=", ">", "!=", ":", "=", "(", ")", "not", "and", "or", "!", "#3", "8", "14M",
                           "1e999", "-1e-999", "5ms", "done", "gelu", '"', "'", ",", "²", "9" * 400, "(" * 200]),
    text, st.builds("{}{}{}".format, keys, st.sampled_from(["<", ":", "!=", "="]), st.integers() | st.floats() | text),
)  # fmt: skip


@fuzzed(st.tuples(st.lists(filter_pieces, max_size=10), st.sampled_from(["", " "])).map(lambda p: p[1].join(p[0])))
def test_any_text_is_a_filter_or_is_refused(said: str) -> None:
    try:
        found = parse(said, ["accuracy"])
    except FilterError as error:
        assert 0 <= error.start < error.end <= max(1, len(said))
        assert error.problem and error.hint
    else:
        assert {s.number for s in passing(found, SCORED)} <= {s.number for s in SCORED}


SCORED = rank(made_rows(30), -0.06, 0.6)
BODY = test_export.made()


def scratch(name: str) -> Path:
    return _SCRATCH / name


@pytest.fixture(autouse=True, scope="module")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _SCRATCH
    _SCRATCH = tmp_path_factory.mktemp("fuzz")


_SCRATCH = Path()
