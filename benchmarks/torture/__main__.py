"""Tries every fault with ever new seeds until the time is over, and prints what was survived.

`python -m benchmarks.torture --minutes 50 --seed 0` ends with 1 where anything was lost. `--only TEXT --seed N
--times 1` repeats one attempt, `--quick` tries a short selection once, `--json FILE` writes the table for programs.
`--jobs N` tries N faults at a time, each with seeds of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from benchmarks.torture import (
    campaigns,
    clocks,
    deaths,
    disk,
    hostile,
    memory,
    numbers,
    outages,
    phases,
    stores,
    terminals,
)
from benchmarks.torture.faults import Fault, Kit, Tally, attempted
from tests.forks import Forked

KINDS = (deaths, campaigns, phases, stores, outages, disk, terminals, hostile, numbers, memory, clocks)
FAULTS: list[Fault] = [fault for kind in KINDS for fault in kind.FAULTS]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=50.0, help="no attempt is begun after so many")
    parser.add_argument("--seed", type=int, default=0, help="of each fault's first attempt; each further has the next")
    parser.add_argument("--only", default="", metavar="TEXT", help="the faults whose title holds this")
    parser.add_argument("--times", type=int, help="attempts of each fault, at most")
    parser.add_argument("--jobs", type=int, default=1, help="attempts side by side")
    parser.add_argument("--quick", action="store_true", help="a selection of a minute or two, each once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    parser.add_argument("--list", action="store_true", help="print the titles of all faults")
    asked = parser.parse_args(arguments)
    chosen = [f for f in FAULTS if asked.only in f.title and (f.quick or not asked.quick)]
    if asked.list:
        print("\n".join(fault.title for fault in chosen))
        return 0
    if not chosen:
        parser.error(f"no fault's title holds {asked.only!r}; --list prints them")
    times = 1 if asked.quick and asked.times is None else asked.times
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.monotonic()
    tallies = side_by_side(chosen, asked.seed, asked.minutes * 60, times, max(1, asked.jobs))
    minutes = (time.monotonic() - began) / 60
    print("\n".join(table(tallies)))
    deaths_tried = sum(tally.tried for tally in tallies if tally.fault.kind in ("deaths", "phases", "campaigns"))
    lost = sum(len(tally.lost) for tally in tallies)
    print(f"{deaths_tried} deaths, {sum(t.attempts for t in tallies)} attempts in {minutes:.1f} minutes, {lost} lost")
    if asked.json is not None:
        asked.json.write_text(json.dumps(facts(tallies, asked.seed, minutes), indent=2))
    return 1 if lost else 0


def side_by_side(faults: list[Fault], seed: int, seconds: float, times: int | None, jobs: int) -> list[Tally]:
    """What `jobs` processes tried, of which the first has every `jobs`-th seed from `seed` on."""
    if jobs == 1:
        return tried(faults, seed, seconds, times)
    with tempfile.TemporaryDirectory(prefix="kdnas-torture-") as folder:

        def job(nth: int) -> int:
            own = None if times is None else len(range(nth, times, jobs))
            # The first attempts of the jobs are at different faults.
            turned = faults[nth * len(faults) // jobs :] + faults[: nth * len(faults) // jobs]
            tallies = tried(turned, seed + nth, seconds, own, step=jobs)
            found = {tally.fault.title: tally.facts() for tally in tallies}
            Path(folder, f"{nth}.json").write_text(json.dumps(found))
            return 0

        for process in [Forked(partial(job, nth)) for nth in range(jobs)]:
            if process.wait() != 0:
                raise SystemExit(f"a job of the torture ended with {process.returncode}")
        parts = [json.loads(Path(folder, f"{nth}.json").read_text()) for nth in range(jobs)]
    return [merged(fault, [Tally.of(fault, part[fault.title]) for part in parts]) for fault in faults]


def merged(fault: Fault, parts: list[Tally]) -> Tally:
    """What several processes found of one fault."""
    lost = {seed: what for part in parts for seed, what in part.lost.items()}
    not_here = next((part.not_here for part in parts if part.not_here is not None), None)
    return Tally(
        fault,
        sum(part.tried for part in parts),
        [seed for part in parts for seed in part.seeds],
        sum(part.seconds for part in parts),
        dict(sorted(lost.items())),
        not_here,
    )


def tried(faults: list[Fault], seed: int, seconds: float, times: int | None, step: int = 1) -> list[Tally]:
    """Every fault once, the kinds by turns, and then whichever has had the least of its share of the time."""
    tallies = [Tally(fault) for fault in faults]
    nth = {t.fault.title: sum(u.fault.kind == t.fault.kind for u in tallies[:n]) for n, t in enumerate(tallies)}
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="kdnas-torture-", ignore_cleanup_errors=True) as folder:
        kit = Kit(Path(folder))
        try:
            while time.monotonic() < end:
                open_ = [t for t in tallies if t.not_here is None and (times is None or t.attempts < times)]
                if not open_:
                    break
                tally = min(open_, key=lambda t: (t.seconds / t.fault.share, nth[t.fault.title]))
                now = seed + step * tally.attempts
                attempted(tally, now, kit)
                if now in tally.lost:
                    print(f"lost: {tally.fault.title}, seed {now}: {tally.lost[now]}", file=sys.stderr, flush=True)
        finally:
            kit.close()
    return tallies


def table(tallies: list[Tally]) -> list[str]:
    width = max(len(tally.fault.title) for tally in tallies)
    lines = [f"{'fault':<{width}} {'tried':>6} {'survived':>8} {'lost':>5}  seeds that repeat what was lost"]
    for tally in tallies:
        said = tally.not_here or "; ".join(f"{seed}: {what}" for seed, what in tally.lost.items()) or "–"
        tally_lost = len(tally.lost)
        lines.append(
            f"{tally.fault.title:<{width}} {tally.tried:>6} {tally.tried - tally_lost:>8} {tally_lost:>5}  {said}"
        )
    return lines


def facts(tallies: list[Tally], seed: int, minutes: float) -> dict[str, Any]:
    """The table for programs."""
    rows = [
        {
            "kind": tally.fault.kind,
            "fault": tally.fault.name,
            "attempts": tally.attempts,
            "tried": tally.tried,
            "survived": tally.tried - len(tally.lost),
            "lost": [{"seed": each, "what": what} for each, what in tally.lost.items()],
            "seeds": [min(tally.seeds, default=seed), max(tally.seeds, default=seed)],
            "not_tried_because": tally.not_here,
        }
        for tally in tallies
    ]
    return {"seed": seed, "minutes": round(minutes, 2), "faults": rows}


if __name__ == "__main__":
    sys.exit(main())
