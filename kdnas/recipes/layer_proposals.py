"""The students whose layers differ that are predicted to be best at each latency: what a search proposes first.

Losses are those of the block library, latencies a sum over blocks; the layers' sizes are solved for both at once, for
each depth, width, head size and activation. Builds no student and measures nothing.
"""

from __future__ import annotations

import numpy as np

from kdnas.models.encoder_sizes import LayerSizes, Sizes
from kdnas.recipes import layer_solver
from kdnas.recipes.block_library import BlockLibrary
from kdnas.recipes.contract import Around, BlockTime, Proposal
from kdnas.recipes.encoder_block_library import shape_of
from kdnas.recipes.spaces.encoder import of_layer
from kdnas.recipes.spaces.encoder_layers import ACT, DEPTH, HEAD, HEADS, INNER, WIDTH
from kdnas.study.space import Candidate, SearchSpace, Value
from kdnas.system.progress import Progress

MOST = 100  # proposals of each depth


def best(
    space: SearchSpace, library: BlockLibrary, block: BlockTime, around: Around, on_progress: Progress
) -> list[Proposal]:
    """Of each depth those that none other of it is as good as in both, at most MOST, the fastest first."""
    choices = {d.name: d.choices for d in space.dimensions}
    bodies = [
        (int(width), int(size), str(act)) for width in choices[WIDTH] for size in choices[HEAD] for act in choices[ACT]
    ]
    heads = sorted({int(h) for name, listed in choices.items() if name.startswith(HEADS) for h in listed})
    counts = sorted({int(k) for name, listed in choices.items() if name.startswith(INNER) for k in listed})
    likes = {body: Sizes.of_layers(*body, [LayerSizes(heads[0], counts[0])]) for body in bodies}
    shapes = {(body, h): shape_of(like, h) for body, like in likes.items() for h in heads}
    scores = library.scores(sorted(set(shapes.values())), counts, on_progress)
    floors = library.floors(sorted({width for width, _, _ in bodies}))
    found: list[Proposal] = []
    for depth in map(int, choices[DEPTH]):
        options = [
            [(int(h), int(k)) for h in choices[of_layer(HEADS, i)] for k in choices[of_layer(INNER, i)]]
            for i in range(1, depth + 1)
        ]
        of_depth: list[Proposal] = []
        for body in bodies:
            taken = {o: block(likes[body], LayerSizes(*o)) for o in {o for layer in options for o in layer}}
            costs = []
            for layer, (span, own) in enumerate(zip(library.spans[depth], options, strict=True), start=1):
                left = [float(scores[shapes[body, h]][span][counts.index(k)]) for h, k in own]
                costs.append(np.log1p(2 * layer / (depth + 1) * np.array(left)))
            front = layer_solver.front(costs, [np.array([taken[o] for o in own]) for own in options])
            losses = (1.0 - np.exp(-front.cost) * (1.0 - floors[body[0]])) ** library.power
            times = front.time + around(likes[body])
            for place in range(len(losses)):
                each = [options[layer][option] for layer, option in enumerate(front.chosen[place])]
                candidate = _candidate(space, depth, body, each)
                of_depth.append(Proposal(candidate, float(losses[place]), float(times[place])))
        losses, times = (np.array([getattr(one, name) for one in of_depth]) for name in ("loss", "time"))
        found += [of_depth[place] for place in layer_solver.thinned(losses, times, MOST)]
    return found


def _candidate(space: SearchSpace, depth: int, body: tuple[int, int, str], each: list[tuple[int, int]]) -> Candidate:
    values: dict[str, Value] = {DEPTH: depth, WIDTH: body[0], HEAD: body[1], ACT: body[2]}
    for layer, (heads, inner) in enumerate(each, start=1):
        values |= {of_layer(HEADS, layer): heads, of_layer(INNER, layer): inner}
    return space.canonical({d.name: values.get(d.name, d.choices[0]) for d in space.dimensions})
