"""A reader and some hundred inputs of chance, in every run of the tests; `make fuzz` tries many more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]


def some(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], inputs: int) -> None:
    """The check on so many inputs; an input may take as long as it does on a busy machine."""
    settings(max_examples=inputs, deadline=None, suppress_health_check=SLOW)(given(strategy)(check))()


def fuzzed(strategy: st.SearchStrategy[Any]) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """The check with some hundred inputs, as a test."""

    def over(check: Callable[[Any], None]) -> Callable[[], None]:
        def test() -> None:
            some(strategy, check, 150)

        return test

    return over
