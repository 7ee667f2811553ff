"""The order of many values, sorted anew only where one of them moved. Pure arithmetic on arrays."""

from __future__ import annotations

import numpy as np


class KeptOrder:
    """Sorting a hundred thousand trials takes ten times as long as seeing that they stand where they stood."""

    def __init__(self) -> None:
        self._keys: tuple[np.ndarray, ...] = ()
        self._order = np.zeros(0, dtype=np.int64)

    def of(self, values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Places by value, NaN last, equal ones by number; both [n], the result int [n] and not to be written to."""
        keys = (numbers, values)
        if not self._keys or not all(map(_same, self._keys, keys)):
            self._keys = tuple(key.copy() for key in keys)  # columns are written to in place
            self._order = np.lexsort(keys)
            self._order.flags.writeable = False
        return self._order


def _same(before: np.ndarray, after: np.ndarray) -> bool:
    return np.array_equal(before, after, equal_nan=after.dtype.kind == "f")
