"""The best sizes of layers for every latency at once: dynamic programming over the layers of one student.

Costs and times add up over layers. Of two beginnings of a student, one that costs and takes no less than the other is
left out; nothing that follows makes up for it. Pure figures: it knows no model and measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KEPT = 2000  # beginnings that are kept after each layer, spread over their times


@dataclass(frozen=True)
class Front:
    """Arrays over students, the fastest first: each costs less than all before it. `chosen` [n, layers] are places
    among the options of each layer."""

    cost: np.ndarray
    time: np.ndarray
    chosen: np.ndarray


def front(costs: Sequence[np.ndarray], times: Sequence[np.ndarray], kept: int = KEPT) -> Front:
    """Of students that take one option in each layer, those that none other is at least as good as in both sums.

    `costs` and `times` hold for each layer the figures of its options [options]. Exact while no more than `kept`
    beginnings are left after a layer; of more, one of each `kept`-th part of their range of times.
    """
    cost, time = np.zeros(1), np.zeros(1)
    chosen = np.zeros((1, 0), dtype=np.int64)
    for own_cost, own_time in zip(costs, times, strict=True):
        whole_cost = (cost[:, None] + own_cost[None]).ravel()
        whole_time = (time[:, None] + own_time[None]).ravel()
        places = thinned(whole_cost, whole_time, kept)
        before, option = np.divmod(places, len(own_cost))
        cost, time = whole_cost[places], whole_time[places]
        chosen = np.concatenate([chosen[before], option[:, None]], axis=1)
    return Front(cost, time, chosen)


def thinned(cost: np.ndarray, time: np.ndarray, kept: int) -> np.ndarray:
    """Places of those that no other is at least as good as in both, by time; of more than `kept`, the one of least cost
    in each `kept`-th part of their range of times."""
    order = np.lexsort((cost, time))
    lowest = np.minimum.accumulate(cost[order])
    better = np.append(True, cost[order][1:] < lowest[:-1])
    places = order[better]
    if len(places) <= kept:
        return places
    own = time[places]
    part = np.minimum(((own - own[0]) / (own[-1] - own[0]) * kept).astype(np.int64), kept - 1)
    last = np.append(part[1:] != part[:-1], True)  # of each part the slowest costs least
    last[0] = True
    return places[last]
