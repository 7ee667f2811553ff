"""Values, specs, exported files and filters of chance, for those who read them."""

from __future__ import annotations

import json
from typing import Any

import tomli_w
from hypothesis import strategies as st

from kdnas.study.filter import ALIASES, COLUMNS, FACTS
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import recipe_parts
from kdnas.study.spec_strategies import strategy_parts

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
    """Nested values of a spec."""
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


def written_as_toml(found: Any) -> bytes:
    """The values as TOML, where it can say them; else what it would not, as JSON."""
    try:
        return tomli_w.dumps(found).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError):
        return json.dumps(found).encode()


toml_pieces = st.sampled_from(
    ["[", "]", "{", "}", "=", '"', "'", "\n", ",", ".", "#", "\\u", "\\", "0x", "1979-05-27T07:32:00Z", "inf", "nan",
     "9" * 40, "-", "[teacher]\n", "model = ", "[[space.choices]]\n", "true", "\ufeff", "\r", "\x00", "[" * 3000]
)  # fmt: skip
toml_files = st.one_of(
    st.lists(toml_pieces | st.text(max_size=6), max_size=12).map("".join).map(str.encode), st.binary(max_size=60)
)


def changed(body: Any, path: list[int], value: Any) -> Any:
    """The document with one place of it replaced; `path` picks a way down."""
    if not path or not isinstance(body, dict | list) or not body:
        return value
    if isinstance(body, list):
        place = path[0] % len(body)
        return [changed(each, path[1:], value) if i == place else each for i, each in enumerate(body)]
    key = sorted(body)[path[0] % len(body)]
    return {**body, key: changed(body[key], path[1:], value)}


def export_files(body: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """The exported document with a place changed, and what is none."""
    places = st.tuples(st.lists(st.integers(0, 30), max_size=5), values)
    return st.one_of(
        places.map(lambda pair: json.dumps(changed(body, *pair)).encode()),
        values.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=40),
        st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"\xef\xbb\xbf[]", b"NaN", b"9" * 5000]),
    )


_keys = st.sampled_from([*COLUMNS, *ALIASES, "is", "model_type", "cell"])
_filter_pieces = st.one_of(
    _keys, st.sampled_from([*FACTS, "<", "<=", ">", "!=", ":", "=", "(", ")", "not", "and", "or", "!", "#3", "8", "14M",
                            "1e999", "-1e-999", "5ms", "done", "gelu", '"', "'", ",", "²", "9" * 400, "(" * 200]),
    text, st.builds("{}{}{}".format, _keys, st.sampled_from(["<", ":", "!=", "="]), st.integers() | st.floats() | text),
)  # fmt: skip
filters = st.tuples(st.lists(_filter_pieces, max_size=10), st.sampled_from(["", " "])).map(
    lambda pair: pair[1].join(pair[0])
)
