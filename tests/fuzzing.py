"""A reader and inputs of chance: some hundred in every run of the tests, ten minutes of them in the long one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def some(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], inputs: int) -> None:
    """The check on so many inputs; an input may take as long as it does on a busy machine."""
    settings(max_examples=inputs, deadline=None, suppress_health_check=SLOW)(given(strategy)(check))()


def for_minutes(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """The check on ever new inputs for KDNAS_FUZZ_MINUTES, ten where it is not set."""
    end = time.monotonic() + 60 * float(os.environ.get("KDNAS_FUZZ_MINUTES", "10"))
    while time.monotonic() < end:
        some(strategy, check, 2_000)
