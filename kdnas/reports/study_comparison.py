"""Several studies beside each other: their specs, differences first, and fronts and histories where those go together.

`kdnas compare` and the screen of compared studies show the same. Reads the store and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdnas.store import queries
from kdnas.store.database import Store
from kdnas.store.read_columns import read_board
from kdnas.study.comparable import Side, Verdict, verdict
from kdnas.study.constraints import of_study
from kdnas.study.ranking import Scored, on_front
from kdnas.study.reference_time import factor
from kdnas.study.rows import StudyRow
from kdnas.study.spec_differences import flatten
from kdnas.study.study_command import present_spec
from kdnas.study.trial_columns import Board
from kdnas.system.errors import UsageError

MOST = 6  # studies; more lines in one plot are told from each other no longer


@dataclass(frozen=True)
class Front:
    """The front of one study, the fastest first: arrays [n]. `common`: on the front of all studies together."""

    number: np.ndarray
    loss: np.ndarray
    latency_ms: np.ndarray
    parameters: np.ndarray
    common: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Boards in the order of the rows. Where rewards may be compared, all are ranked at the `alpha` and `beta` of the
    first study, else each at its own; each under its own constraints."""

    rows: tuple[StudyRow, ...]
    boards: tuple[Board, ...]
    verdict: Verdict
    alpha: float
    beta: float
    differing: tuple[tuple[str, tuple[Any, ...]], ...]  # fields of the specs, and the value of each study
    shared: tuple[tuple[str, Any], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows)

    def best(self) -> tuple[Scored | None, ...]:
        """The best trial of each study, None where none that has finished keeps its constraints."""
        places = [board.standing.best for board in self.boards]
        return tuple(
            None if place is None else board.at(place) for board, place in zip(self.boards, places, strict=True)
        )

    @property
    def reference_ms(self) -> float | None:
        """The time of the teacher for which the latencies of all studies are told. None where rewards may not be
        compared, the teachers not being the same: then each study's latencies are told for its own."""
        return None if self.verdict.reward else self.rows[0].teacher_latency_ms

    def latencies(self) -> tuple[float, ...]:
        """What each study's latencies are multiplied by, so that they compare."""
        return tuple(factor(row.teacher_latency_ms, self.reference_ms) for row in self.rows)

    def fronts(self) -> tuple[Front, ...]:
        """Of each study; a common front only where both its axes may be compared."""
        found = []
        for board, by in zip(self.boards, self.latencies(), strict=True):
            places = np.flatnonzero(board.standing.front)
            places = places[np.argsort(board.column("latency")[places], kind="stable")]
            loss, latency, parameters = (board.column(key)[places] for key in ("loss", "latency", "params"))
            common = np.zeros(len(places), dtype=bool)
            found.append(Front(board.numbers[places], loss, latency * by, parameters, common))
        if self.verdict.reward:
            return tuple(found)
        losses, latencies = (np.concatenate([getattr(one, axis) for one in found]) for axis in ("loss", "latency_ms"))
        together = on_front(losses, latencies)
        commons = np.split(together, np.cumsum([len(one.number) for one in found])[:-1])
        return tuple(replace(one, common=common) for one, common in zip(found, commons, strict=True))

    def histories(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Of each study: how many trials had finished at each improvement and at the end, and the best until then.

        The reward where rewards may be compared, else the loss, else nothing.
        """
        return tuple(self._history(board) for board in self.boards)

    def _history(self, board: Board) -> tuple[np.ndarray, np.ndarray]:
        places = np.flatnonzero((board.standing.rank > 0) & ~(board.standing.miss > 0))
        if not len(places) or self.verdict.loss:
            return np.zeros(0), np.zeros(0)
        places = places[np.lexsort((board.numbers[places], np.nan_to_num(board.ended()[places])))]
        if self.verdict.reward:
            best = np.minimum.accumulate(board.column("loss")[places])
        else:
            best = np.maximum.accumulate(board.standing.reward[places])
        rises = np.flatnonzero(np.diff(best, prepend=np.nan) != 0)
        steps = np.append(rises, len(best) - 1) if rises[-1] != len(best) - 1 else rises
        return steps + 1.0, best[steps]


def compare(store: Store, study_ids: Sequence[int]) -> Comparison:
    """Read them. Raises UsageError for fewer than two, more than MOST, one that was deleted or cannot be read."""
    ids = list(dict.fromkeys(study_ids))
    if not 2 <= len(ids) <= MOST:
        given = "One study" if len(ids) == 1 else f"{len(ids)} studies"
        raise UsageError(f"{given} cannot be compared.", f"Give two to {MOST} different ones.")
    rows = tuple(queries.study_of(store, study_id) for study_id in ids)
    found = verdict([Side(row, queries.provenance(store, row.study_id)) for row in rows])
    alpha, beta = rows[0].alpha, rows[0].beta
    boards = tuple(
        read_board(
            store,
            row.study_id,
            row.alpha if found.reward else alpha,
            row.beta if found.reward else beta,
            row.spec["reward"]["loss"],
            of_study(row),
        )
        for row in rows
    )
    specs = [flatten(present_spec(row)) for row in rows]
    fields = [field for field in dict.fromkeys(field for spec in specs for field in spec) if field != "name"]
    values = {field: tuple(spec.get(field) for spec in specs) for field in fields}
    same = {field for field, those in values.items() if all(one == those[0] for one in those)}
    return Comparison(
        rows,
        boards,
        found,
        alpha,
        beta,
        tuple((field, values[field]) for field in fields if field not in same),
        tuple((field, values[field][0]) for field in fields if field in same),
    )


def figures(compared: Comparison) -> list[tuple[str, tuple[str, ...], int]]:
    """What was found, a line each: its name, the value of each study, and whether more (1) or less (−1) is better; 0
    where it ranks nothing, because there is no better or because the studies do not go together."""
    best, fronts, verdict = compared.best(), compared.fronts(), compared.verdict
    loss, latency, reward = (-1 if not verdict.loss else 0, -1 if not verdict.latency else 0, int(not verdict.reward))

    def of_best(value: Any, shown: str) -> tuple[str, ...]:
        found = [None if one is None else value(one) for one in best]
        return tuple("–" if one is None else format(one, shown) for one in found)

    lines = [
        ("status", tuple(str(row.status) for row in compared.rows), 0),
        ("trials", tuple(row.counted for row in compared.rows), 0),
        ("best reward", of_best(lambda s: s.reward, ".4f"), reward),
        ("its trial", of_best(lambda s: s.number, "d"), 0),
        ("its loss", of_best(lambda s: s.loss_used, ".4f"), loss),
        ("its latency ms", tuple(_shown(ms) for ms in _latencies(compared)), latency),
        ("its parameters", of_best(lambda s: s.row.parameters, ",d"), -1),
        ("teacher's latency ms", tuple(_shown(row.teacher_latency_ms) for row in compared.rows), 0),
        ("on its front", tuple(str(len(front.number)) for front in fronts), 0),
    ]
    if not verdict.reward:
        lines.append(("on the common front", tuple(str(int(front.common.sum())) for front in fronts), 1))
    return [
        *lines,
        ("tags", tuple(" ".join(row.tags) or "–" for row in compared.rows), 0),
        ("note", tuple(row.note or "–" for row in compared.rows), 0),
    ]


def _latencies(compared: Comparison) -> list[float | None]:
    """Of each study's best, in ms that compare where latencies may be compared."""
    told = [None if one is None else one.told.latency_ms for one in compared.best()]
    return [None if ms is None else ms * by for ms, by in zip(told, compared.latencies(), strict=True)]


def best_places(cells: tuple[str, ...], better: int) -> frozenset[int]:
    """Places of the best of a line's cells, by `figures`' sense of better; none where all are the same."""
    known = [(place, float(cell.replace(",", ""))) for place, cell in enumerate(cells) if better and cell != "–"]
    if len({value for _, value in known}) < 2:
        return frozenset()
    top = (max if better > 0 else min)(value for _, value in known)
    return frozenset(place for place, value in known if value == top)


def refusals(compared: Comparison) -> list[str]:
    """What is not compared, and why: a sentence each."""
    verdict = compared.verdict
    said = [f"Losses are not compared: {verdict.loss}"] if verdict.loss else []
    return said + ([f"Latencies are not compared: {verdict.latency}"] if verdict.latency else [])


def values(compared: Comparison) -> dict[str, Any]:
    """The comparison as plain values for JSON."""
    verdict, best = compared.verdict, compared.best()
    whys = {"loss": verdict.loss, "latency": verdict.latency, "reward": verdict.reward}
    axis = None if verdict.loss else "loss" if verdict.reward else "reward"
    studies = []
    for row, one, ms, front, (finished, value) in zip(
        compared.rows, best, _latencies(compared), compared.fronts(), compared.histories(), strict=True
    ):
        studies.append(
            {
                "name": row.name,
                "status": str(row.status),
                "done": row.done,
                "trials": row.trials,
                "tags": list(row.tags),
                "note": row.note,
                "teacher_latency_ms": row.teacher_latency_ms,
                "best": None
                if one is None
                else {
                    "trial": one.number,
                    "reward": one.reward,
                    "loss": one.loss_used,
                    "latency_ms": ms,
                    "parameters": one.row.parameters,
                },
                "front": [
                    {"trial": number, "loss": loss, "latency_ms": latency, "parameters": size, "common": common}
                    for number, loss, latency, size, common in zip(
                        front.number.tolist(),
                        front.loss.tolist(),
                        front.latency_ms.tolist(),
                        [None if size != size else int(size) for size in front.parameters.tolist()],
                        front.common.tolist(),
                        strict=True,
                    )
                ],
                "history": [{"finished": int(n), "best": v} for n, v in zip(finished, value.tolist(), strict=True)],
            }
        )
    return {
        "comparable": {name: not why for name, why in whys.items()},
        "why_not": {name: why for name, why in whys.items() if why},
        "reference_ms": compared.reference_ms,
        "alpha": compared.alpha,
        "beta": compared.beta,
        "history_of": axis,
        "studies": studies,
        "differing": {field: list(those) for field, those in compared.differing},
        "same": dict(compared.shared),
    }


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
