"""Every random number comes from system/seeds.py, for a purpose that is named there, and is what it always was."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from kdnas.system import seeds
from kdnas.system.seeds import Benchmark, Fixed, Purpose, Split, Student, Tuning

ROOT = Path(__file__).parents[2]
HOME = ROOT / "kdnas/system/seeds.py"
FILES = sorted(path for part in ("kdnas", "kdnas_tui", "benchmarks") for path in (ROOT / part).rglob("*.py"))
MAKERS = re.compile(r"\b(SeedSequence|default_rng|RandomState|Random)\(|\brandom\.seed\(|^\s*import random\b")
SEEDING = {"manual_seed", "manual_seed_all", "set_seed"}
NUMBERS = {"number", "long_number", "fixed_number"}


def seedings(code: str) -> Iterator[tuple[int, ast.expr]]:
    """(line, the seed) of every call that seeds a generator of torch, also in programs that stand as text in it."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in SEEDING:
                yield node.lineno, node.args[0]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import torch" in node.value:
            yield from seedings(node.value)


def homemade(seed: ast.expr) -> bool:
    """Whether a seed is made up where it is used: it is neither a number of seeds.py nor one that somebody gave."""
    if isinstance(seed, ast.Call):
        return not (isinstance(seed.func, ast.Attribute) and seed.func.attr in NUMBERS) and not (
            isinstance(seed.func, ast.Name) and seed.func.id in NUMBERS
        )
    if isinstance(seed, ast.Attribute):
        return seed.attr != "seed"
    return not (isinstance(seed, ast.Name) and seed.id in {"seed", "noise"})


@pytest.mark.parametrize(
    "line", ["torch.manual_seed(0)", "torch.manual_seed(SPLIT)", "torch.Generator().manual_seed(rows * 1000 + tokens)"]
)
def test_a_seed_made_up_on_the_spot_is_seen(line: str) -> None:
    assert [homemade(seed) for _, seed in seedings(line)] == [True]
    assert [homemade(seed) for _, seed in seedings("torch.manual_seed(number(seed, Purpose.STUDENT))")] == [False]


def test_no_generator_is_made_or_seeded_elsewhere() -> None:
    assert len(FILES) > 150 and HOME in FILES
    made = [
        f"{path.relative_to(ROOT)}:{at}"
        for path in FILES
        if path != HOME
        for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MAKERS.search(line)
    ]
    seeded = [
        f"{path.relative_to(ROOT)}:{at}"
        for path in FILES
        for at, seed in seedings(path.read_text(encoding="utf-8"))
        if homemade(seed)
    ]
    assert made == [] and seeded == []


@pytest.mark.parametrize("purposes", [Purpose, Student, Tuning, Split, Fixed, Benchmark])
def test_every_purpose_is_used(purposes: type[IntEnum]) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in FILES if path != HOME)
    unused = [name for name in purposes.__members__ if not re.search(rf"\b{purposes.__name__}\.{name}\b", source)]
    assert unused == []


def test_what_is_drawn_is_what_it_always_was() -> None:
    """Known from studies that exist: a changed one changes what they would go on with."""

    def first(rng: np.random.Generator) -> int:
        return int(rng.integers(1 << 30))

    drawn = {purpose.name: first(seeds.split(purpose)) for purpose in Split}
    assert drawn == {
        name: first(np.random.default_rng(np.random.SeedSequence([20_231, place])))
        for name, place in zip(Split.__members__, (0, 1, 2, 3, 4, 6, 7, 8), strict=True)
    }
    assert first(seeds.fixed(Fixed.LATENCY_TOKENS)) == first(np.random.default_rng([0, 4]))
    assert first(seeds.fixed(Fixed.ESTIMATE)) == first(np.random.default_rng(0))
    assert first(seeds.generator(5, Benchmark.SAMPLE)) == first(np.random.default_rng(5))
    older = (Fixed.POOLER, Fixed.TOKEN_HEAD, Fixed.FOREST, Fixed.WORD_VECTORS)
    assert [seeds.fixed_number(one) for one in older] == [0, 20_231, 0, 1]
    assert seeds.number(7, Purpose.STUDENT, 1) == 1_605_098_309
    assert seeds.long_number(7, Student.WEIGHTS) == 3_317_731_564_112_288_844
    assert first(seeds.generator(7, Purpose.PROPOSAL, 3)) == 638_835_500
