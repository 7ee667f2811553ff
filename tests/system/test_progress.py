"""A log keeps each thing once, whatever counts along."""

from __future__ import annotations

from kdnas.system.progress import Once


def test_counters_make_nothing_new() -> None:
    said = Once()
    words = ["loading", "step 1 of 1,200", "step 999 of 1,200", "step 1,000 of 1,200", "scoring", "step 1 of 2"]
    assert [said.new(w) for w in words] == [True, True, False, False, True, True]
