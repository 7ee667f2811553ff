"""What single layers take in students whose layers differ, over the teacher's time, from few models measured whole.

Attention's time lies on lines between three numbers of heads, that of the feed-forward part on lines between three
numbers of neurons, and the two add up. Figures are remembered like those of any candidate. Evaluates no candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from kdnas.measuring.block_table import BlockTable
from kdnas.models.encoder_sizes import LayerSizes, Sizes
from kdnas.recipes.contract import DEPTH, Workbench
from kdnas.recipes.spaces.encoder_layers import ACT, HEAD, HEADS, INNER, WIDTH, alike
from kdnas.search.block_latency import filled, over_teacher
from kdnas.search.candidate import Measure
from kdnas.study.space import Candidate
from kdnas.system.progress import Progress

POINTS = 3  # numbers of heads, and of neurons, at which blocks are measured

Body = tuple[int, int]
"""Width and size of a head."""


@dataclass(frozen=True)
class LayerTimes:
    """Ratios to the teacher's time, for each width and head size: of what is not in a layer, and of layers by their
    numbers of heads and of neurons, each as points and their values. `extra` is what each activation takes more than
    the first one in a layer, by the number of neurons."""

    outside: dict[Body, float]
    heads: dict[Body, tuple[list[int], list[float]]]
    neurons: dict[Body, tuple[list[int], list[float]]]
    extra: dict[str, tuple[list[int], list[float]]]

    def around(self, sizes: Sizes) -> float:
        return self.outside[sizes.width, sizes.head_size]

    def block(self, sizes: Sizes, layer: LayerSizes) -> float:
        body = sizes.width, sizes.head_size
        attention, feed_forward = np.interp(layer.heads, *self.heads[body]), np.interp(layer.inner, *self.neurons[body])
        return float(attention + feed_forward + np.interp(layer.inner, *self.extra[sizes.act]))

    def whole(self, sizes: Sizes) -> float:
        """Of a student."""
        return self.around(sizes) + sum(self.block(sizes, sizes.layer(i)) for i in range(sizes.layers))


def layer_times(bench: Workbench, measure: Measure, on_progress: Progress) -> LayerTimes:
    """Measured on a workbench whose space has sizes for each layer. Raises UsageError, KdnasError."""
    choices = {d.name: d.choices for d in bench.space.dimensions}
    deepest, acts = max(2, *map(int, choices[DEPTH])), [str(act) for act in choices[ACT]]
    heads = _points({int(h) for name, listed in choices.items() if name.startswith(HEADS) for h in listed})
    inners = _points({int(k) for name, listed in choices.items() if name.startswith(INNER) for k in listed})
    bodies = [(int(width), int(size)) for width in choices[WIDTH] for size in choices[HEAD]]
    kinds = list(dict.fromkeys([*((h, inners[0]) for h in heads), *((heads[-1], k) for k in inners)]))
    ends = list(dict.fromkeys([kinds[0], kinds[-1]]))

    def probe(body: Body, act: str, kind: tuple[int, int], depth: int) -> Candidate:
        return alike(bench.space, Sizes.of_layers(*body, act, [LayerSizes(*kind)] * depth), LayerSizes(*kind))

    wanted = {
        body: [probe(body, acts[0], kind, 1) for kind in ends] + [probe(body, acts[0], kind, deepest) for kind in kinds]
        for body in bodies
    }
    middle = bodies[len(bodies) // 2]
    least_and_most = sorted({inners[0], inners[-1]})
    wanted[middle] += [probe(middle, act, (heads[-1], k), deepest) for act in acts[1:] for k in least_and_most]
    # Students of one width but heads of another size are told apart: what is around their layers is not the same.
    tables: dict[Body, BlockTable] = {}
    before, of = 0, sum(map(len, wanted.values()))
    for body, models in wanted.items():
        tables[body] = filled(models, partial(over_teacher, bench, measure), on_progress, before, of)
        before += len(models)

    def told(body: Body, kind: tuple[int, int], act: str) -> float:
        return tables[body].blocks[bench.blocks(probe(body, act, kind, 1))[0]]

    outside, by_heads, by_neurons = {}, {}, {}
    for body in bodies:
        outside[body] = tables[body].around[body[0]]
        corner = told(body, (heads[-1], inners[0]), acts[0])
        by_heads[body] = heads, [told(body, (h, inners[0]), acts[0]) for h in heads]
        by_neurons[body] = inners, [told(body, (heads[-1], k), acts[0]) - corner for k in inners]
    by_act = {act: [told(middle, (heads[-1], k), act) for k in least_and_most] for act in acts}
    extra = {act: [one - first for one, first in zip(by_act[act], by_act[acts[0]], strict=True)] for act in acts}
    return LayerTimes(outside, by_heads, by_neurons, {act: (least_and_most, extra[act]) for act in acts})


def _points(numbers: set[int]) -> list[int]:
    """The least, the most and some between."""
    ordered = sorted(numbers)
    return sorted({ordered[round(i * (len(ordered) - 1) / (POINTS - 1))] for i in range(POINTS)})
