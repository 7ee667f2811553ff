"""What the forecast of the strategy `blocks` is worth, and what it costs.

    python -m benchmarks.blocks [--quick] [--json FILE] [--warm] [--threads N] [--teacher encoder|causal]
        [--layers N] [--students N] [--only front,order,latency,search] [--table FILE]

All of all-MiniLM-L6-v2's default space on the quickstart's text, or students of SmolLM2-135M-Instruct on the text of
the preset `causal`; one thread, or `--threads`. `front`: seconds from an empty cache to the forecast of every
candidate. `order`: Kendall's τ of predicted losses and fitted scores, students of one depth. `latency`: predicted
latency ratios beside measured ones. `search`: the front that the strategy finds on a table of fitted scores
(benchmarks.record_table), beside those of other strategies after as many scores; of encoders only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import search_replay
from benchmarks.kendall import kendall
from benchmarks.report import Result, Table, run, say
from kdnas.data import shipped
from kdnas.measuring import devices, latency
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.search.block_latency import DEPTH, predicted_ratios
from kdnas.search.candidate import Timed
from kdnas.strategies.blocks import front_worth
from kdnas.study.forecast import Forecast
from kdnas.study.hypervolume import hypervolume
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import read_toml
from kdnas.system import paths, seeds
from kdnas.system.errors import BadOptionError
from kdnas.system.files import write_atomically
from kdnas.training.contract import Student

CPU = torch.device("cpu")
PARTS = ("front", "order", "latency", "search")
TIMED = 50
WHOLE = {"precision": 0.01, "max_seconds": 10.0}  # of what predictions are held against; their table is the preset's
CORRECTED_BY = 6  # results after which the forecast's error is told anew
SCORES, SEEDS = 24, 3  # real scores of a search, and searches


@dataclass(frozen=True)
class Studied:
    """A teacher with its preset; `layers` are those of the `students` whose order is looked at."""

    preset: str
    layers: int
    students: int
    assets: tuple[str, ...]
    choices: Mapping[str, Any] = field(default_factory=dict)  # nothing: the default space


TEACHERS = {
    "encoder": Studied("quickstart", 3, 60, ("all-minilm-l6-v2", "sotu")),
    "causal": Studied(
        "causal",
        3,
        24,
        ("smollm2-135m-instruct", "sotu"),
        {
            "num_hidden_layers": [2, 3, 4, 6],
            "num_attention_heads": [3, 6, 9],
            "head_size": [32, 64],
            "intermediate_size": [192, 384, 768, 1152, 1536],
            "hidden_act": ["silu"],
        },
    ),
}
TABLE = search_replay.TABLES / "quickstart-fitted.csv.gz"


def measure(options: argparse.Namespace) -> Result:
    torch.set_num_threads(options.threads)
    studied = TEACHERS[options.teacher]
    studied = replace(studied, layers=options.layers or studied.layers, students=options.students or studied.students)
    parts = options.only.split(",") if options.only else list(PARTS)
    if "search" in parts and options.teacher != "encoder":
        parts.remove("search")  # no table is recorded of others
    for name in studied.assets:
        shipped.fetch(name, lambda what, _: say(what))
    with contextlib.nullcontext() if options.warm else _empty_cache():
        began, cpu = time.monotonic(), time.process_time()
        spec = _spec(studied, **studied.choices)
        bench = recipe(spec.recipe.name).prepare(spec, CPU, lambda what, share: None)
        prepared = time.process_time() - cpu
        losses = bench.predicted(lambda what, share: say(what))
        library = time.process_time() - cpu
        say(f"prepared after {prepared:.0f} CPU seconds, every loss predicted after {library:.0f}")
        tables: list[Table] = []
        figures: dict[str, float] = {} if options.warm else {"library_cpu_s": library, "prepare_cpu_s": prepared}
        if "front" in parts or "latency" in parts:
            ratios = predicted_ratios(bench, _protocol, lambda what, share: say(what))
            candidates = list(bench.space.candidates())
            groups = tuple(map(bench.group, candidates))
            forecast = Forecast.of(tuple(map(bench.space.key, candidates)), groups, losses, ratios)
            solving = time.process_time()
            front_worth(forecast, np.zeros(len(candidates), dtype=bool))
            figures["solve_ms"] = (time.process_time() - solving) * 1000
            if not options.warm:
                figures |= {"front_s": time.monotonic() - began, "front_cpu_s": time.process_time() - cpu}
        if "order" in parts:
            found = order(bench, losses, studied, options.quick)
            tables, figures = [*tables, *found.tables], {**figures, **found.figures}
        if "latency" in parts:
            found = latencies(bench, ratios, options.quick)
            tables, figures = [*tables, *found.tables], {**figures, **found.figures}
        facts = {"bench": bench.provenance(), "space": bench.space.size, "device": devices.device_name(CPU)}
        bench.close()
        if "search" in parts:
            found = searches(options.table, options.quick)
            tables, figures = [*tables, *found.tables], {**figures, **found.figures}
    return Result(tables, figures, facts)


def _spec(studied: Studied, **choices: Any) -> StudySpec:
    """The preset's text and latencies, on the default space unless choices are given."""
    values = read_toml(paths.presets()[studied.preset]).model_dump(mode="json")
    return from_values({**values, "space": {"choices": choices}, "strategy": {"name": "blocks"}})


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
    """A cache that holds what was fetched, and nothing else; the user's own is let be."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        (cache / "assets").symlink_to(paths.cache_folder() / "assets")
        before = os.environ.get("KDNAS_CACHE")
        os.environ["KDNAS_CACHE"] = str(cache)
        try:
            yield
        finally:
            del os.environ["KDNAS_CACHE"]
            if before is not None:
                os.environ["KDNAS_CACHE"] = before


def _protocol(
    bench: Workbench, student: Student, candidate: Candidate, settings: Mapping[str, float] | None = None
) -> Timed:
    asked = bench.spec.latency.model_copy(update=settings or {})
    return latency.measure(bench.timed(student), bench.timed(None), asked, CPU)


def _drawn(bench: Workbench, candidates: list[int], count: int) -> list[int]:
    rng = seeds.generator(bench.spec.seed, seeds.Benchmark.SAMPLE)
    return [candidates[i] for i in rng.permutation(len(candidates))[:count]]


# ---------------------------------------------------------------- losses


def order(bench: Workbench, losses: np.ndarray, studied: Studied, quick: bool) -> Result:
    """`tau_blocks`, of students of one depth; `blocks_error` and `blocks_error_corrected`: the middle relative
    error of the predicted loss, and that of the others once CORRECTED_BY of them have corrected it; `fit_cpu_s`."""
    candidates = list(bench.space.candidates())
    of_depth = [place for place, c in enumerate(candidates) if c[DEPTH] == studied.layers]
    places = _drawn(bench, of_depth, 8 if quick else studied.students)
    known = _known(bench)
    spent = []
    for done, place in enumerate(places):
        key = bench.space.key(candidates[place])
        if key not in known:
            say(f"fitting student {done + 1} of {len(places)}")
            begin = time.process_time()
            student = bench.build(candidates[place], 0)
            known[key] = bench.training(student, epochs=0, seed=0).begin().score.loss
            spent.append(time.process_time() - begin)
            write_atomically(_scores_file(bench), json.dumps(known))
    real = np.array([known[bench.space.key(candidates[place])] for place in places])
    keys, groups = tuple(map(bench.space.key, candidates)), tuple(map(bench.group, candidates))
    raw = Forecast.of(keys, groups, losses, np.ones(len(losses)))
    seen = {keys[place]: (float(loss), 1.0) for place, loss in zip(places[:CORRECTED_BY], real, strict=False)}
    corrected = raw.corrected(seen, 0.0, 1.0).loss[places]
    figures = {
        "tau_blocks": kendall(list(losses[places]), list(real)),
        "blocks_error": float(np.median(np.abs(losses[places] / real - 1))),
        "blocks_error_corrected": float(np.median(np.abs(corrected / real - 1)[CORRECTED_BY:])),
    }
    if spent:
        figures["fit_cpu_s"] = float(np.median(spent))
    rows = [
        ("/".join(map(str, candidates[place].values())), losses[place], corrected[i], real[i])
        for i, place in sorted(enumerate(places), key=lambda pair: real[pair[0]])
    ]
    title = f"{len(places)} students of {studied.layers} layers: predicted, corrected by {CORRECTED_BY} of them, fitted"
    return Result([Table(title, ["student", "predicted", "corrected", "fitted"], rows)], figures)


def _scores_file(bench: Workbench) -> Path:
    teacher = bench.provenance()["teacher_fingerprint"][:16]
    return paths.state_folder() / "blocks" / f"{teacher}.json"


def _known(bench: Workbench) -> dict[str, float]:
    """Fitted scores of an earlier run that was interrupted, by the candidate's key."""
    file = _scores_file(bench)
    file.parent.mkdir(parents=True, exist_ok=True)
    return dict(json.loads(file.read_text())) if file.exists() else {}


# ---------------------------------------------------------------- latencies


def latencies(bench: Workbench, ratios: np.ndarray, quick: bool) -> Result:
    """`ratio_error_median`, `ratio_error_most` (95 % are off by no more) and `ratio_error_bias`: relative errors of the
    predicted latency ratio of students that are not in the table of blocks."""
    candidates = list(bench.space.candidates())
    rows, errors = [], []
    for place in _drawn(bench, list(range(len(candidates))), 4 if quick else TIMED):
        say(f"timing {candidates[place]}")
        timed = _protocol(bench, bench.probe(candidates[place]), candidates[place], WHOLE)
        real = timed.p50 / timed.teacher_p50
        errors.append(float(ratios[place] / real - 1))
        rows.append(("/".join(map(str, candidates[place].values())), ratios[place], real, errors[-1], timed.flag or ""))
    sizes = np.sort(np.abs(errors))
    figures = {
        "ratio_error_median": float(np.median(sizes)),
        "ratio_error_most": float(sizes[int(np.ceil(0.95 * len(sizes))) - 1]),
        "ratio_error_bias": float(np.mean(errors)),
    }
    names = ["student", "predicted", "measured", "error", "flag"]
    return Result([Table("Latency over the teacher's", names, rows)], figures)


# ---------------------------------------------------------------- searches on a table


def searches(path: Path, quick: bool) -> Result:
    """`hypervolume.NAME`: of the front after SCORES real scores, the mean of SEEDS searches; over that of the table."""
    if not path.exists():
        say(f"There is no recorded table {path.name}: no search is replayed.")
        return Result([], {})
    recorded = search_replay.load(path)
    forecast = _forecast_of(recorded)
    whole = hypervolume(recorded.losses, recorded.latencies)
    rows, figures = [], {}
    for name in ("blocks", "tpe", "gp", "random"):
        found = [_front(name, recorded, forecast, seed) / whole for seed in range(1 if quick else SEEDS)]
        figures[f"hypervolume.{name}"] = float(np.mean(found))
        rows.append((name, *found, float(np.mean(found))))
    names = ["strategy", *(f"seed {seed}" for seed in range(len(rows[0]) - 2)), "mean"]
    title = f"Hypervolume after {SCORES} fitted scores, as a share of that of all {len(recorded.candidates)} candidates"
    return Result([Table(title, names, rows)], figures)


def _forecast_of(recorded: search_replay.Recorded) -> Forecast:
    """As a search on the table's space makes it: losses of the library, latencies from the few models' rows."""
    bench = recipe("hidden-state").prepare(
        _spec(TEACHERS["encoder"], **{d.name: list(d.choices) for d in recorded.space.dimensions}),
        CPU,
        lambda what, share: None,
    )
    rows = {recorded.space.key(c): place for place, c in enumerate(recorded.candidates)}

    def recorded_time(bench: Workbench, student: Student, candidate: Candidate) -> Timed:
        ratio = float(recorded.latencies[rows[recorded.space.key(candidate)]])
        return latency.Measured(ratio, ratio, ratio, ratio, 0.0, 1, None, 1.0, None, 0.0, 0.0)

    losses = bench.predicted(lambda what, share: say(what))
    ratios = predicted_ratios(bench, recorded_time, lambda what, share: None)
    keys = tuple(map(recorded.space.key, recorded.candidates))
    made = Forecast.of(keys, tuple(map(bench.group, recorded.candidates)), losses, ratios)
    bench.close()
    return made


def _front(name: str, recorded: search_replay.Recorded, forecast: Forecast, seed: int) -> float:
    """The hypervolume after SCORES scores of one search, which looks for the front where the strategy can."""
    import optuna

    from kdnas.strategies import candidate, directions, sampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    budget = {"trials": SCORES}
    try:
        spec = from_values({"seed": seed, "strategy": {"name": name, "two_objectives": True}, "budget": budget})
    except BadOptionError:  # it has a reward only
        spec = from_values({"seed": seed, "strategy": {"name": name}, "budget": budget})
    study = optuna.create_study(directions=directions(spec))
    rewards = recorded.rewards(spec.reward.alpha)
    rows = {recorded.space.key(c): place for place, c in enumerate(recorded.candidates)}
    done: dict[str, tuple[float, float]] = {}
    for slot in range(min(SCORES, recorded.space.size)):
        now = forecast.corrected(done, spec.reward.alpha, spec.reward.beta) if spec.strategy.predicts() else None
        study.sampler = sampler(spec, recorded.space, slot, frozenset(done), None, now)
        trial = study.ask()
        chosen = candidate(trial, recorded.space)
        place = rows[recorded.space.key(chosen)]
        loss, ratio = float(recorded.losses[place]), float(recorded.latencies[place])
        done[recorded.space.key(chosen)] = loss, ratio
        study.tell(trial, [loss, ratio] if spec.two_objectives else float(rewards[place]))
    losses, ratios = np.array(list(done.values())).T
    return hypervolume(losses, ratios)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", choices=tuple(TEACHERS), default="encoder", help="whose students")
    parser.add_argument("--layers", type=int, metavar="N", help="of the students whose order is looked at")
    parser.add_argument("--students", type=int, metavar="N", help="how many of them, at most")
    parser.add_argument("--only", metavar="PARTS", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of all but latencies (default 1)")
    parser.add_argument("--warm", action="store_true", help="the user's cache, which may hold the library already")
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE", help="the recorded table of `search`")


if __name__ == "__main__":
    run("What the forecast of the strategy blocks is worth, and what it costs.", measure, options)
