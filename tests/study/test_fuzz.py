"""Whatever a spec, an exported file or a filter holds: a result, or one line with what was wrong. Never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from kdnas.study import export
from kdnas.study.filter import FilterError, parse
from kdnas.study.ranked_rows import passing, rank
from kdnas.study.spec import from_values
from kdnas.study.spec_flags import assigned, overlay
from kdnas.study.spec_toml import read_toml, read_values, to_toml
from kdnas.system.errors import KdnasError
from tests.fuzzing import fuzzed
from tests.odd_values import export_files, filters, specs, text, toml_files
from tests.rows import made_rows
from tests.study import test_export


def refused_in_one_line(error: KdnasError) -> None:
    assert error.problem and len(str(error).splitlines()) == 1
    str(error).encode()


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


@fuzzed(toml_files)
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


@fuzzed(export_files(test_export.made()))
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


@fuzzed(filters)
def test_any_text_is_a_filter_or_is_refused(said: str) -> None:
    try:
        found = parse(said, ["accuracy"])
    except FilterError as error:
        assert 0 <= error.start < error.end <= max(1, len(said))
        assert error.problem and error.hint
    else:
        assert {s.number for s in passing(found, SCORED)} <= {s.number for s in SCORED}


SCORED = rank(made_rows(30), -0.06, 0.6)


def scratch(name: str) -> Path:
    return _SCRATCH / name


@pytest.fixture(autouse=True, scope="module")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _SCRATCH
    _SCRATCH = tmp_path_factory.mktemp("fuzz")


_SCRATCH = Path()
