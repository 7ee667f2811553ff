"""Feeds every reader for some minutes with what is almost sound, and prints what became of it.

`python -m benchmarks.fuzz --minutes 10 --only csv --seed 0` ends with 1 where anything was wrong. The inputs that
showed it lie in the folder of `--found`; `--only csv --input FILE` repeats one. `--inputs N` tries so many of each,
`--json FILE` writes the table for programs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "TERM": "dumb", "COLUMNS": "100"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each reader")
    parser.add_argument("--seed", type=int, default=0, help="of the first inputs; each hundred has the next")
    parser.add_argument("--only", default="", metavar="NAME", help="one reader; --list prints them")
    parser.add_argument("--inputs", type=int, metavar="N", help="of each reader, at most")
    parser.add_argument("--input", type=Path, metavar="FILE", help="feed the one reader with this file alone")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), metavar="DIR", help="where inputs are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    parser.add_argument("--list", action="store_true", help="print the names of all readers")
    asked = parser.parse_args(arguments)
    with _at_home() as folder:
        return _all(parser, asked, folder)


def _all(parser: argparse.ArgumentParser, asked: argparse.Namespace, folder: Path) -> int:
    from transformers.utils import logging  # it and the readers' libraries look at the environment once

    from benchmarks.fuzz.readers import READERS

    logging.disable_progress_bar()

    chosen = [reader for reader in READERS if asked.only in ("", reader.title)]
    if asked.list:
        print("\n".join(reader.title for reader in chosen))
        return 0
    if not chosen or (asked.input is not None and len(chosen) > 1):
        parser.error(f"{asked.only!r} is no reader; --list prints them")
    found, given = asked.found.absolute(), asked.input and asked.input.absolute()
    told: list[dict[str, Any]] = []
    for reader in chosen:
        told.append(_tried(reader, folder, asked, found, given))
        print(*table(told[-1:])[len(told) > 1 :], sep="\n", flush=True)
    wrong = [one for each in told for one in each["found"]]
    for each in told:
        for one in each["found"]:
            print(f"\n{each['reader']}: {one['what']} ({one['times']} ×, seed {one['seed']}): {one['file']}")
            print("    " + ascii(one["detail"][-300:]))
    if asked.json is not None:
        asked.json.write_text(json.dumps({"seed": asked.seed, "minutes": asked.minutes, "readers": told}, indent=2))
    return 1 if wrong else 0


@contextlib.contextmanager
def _at_home() -> Iterator[Path]:
    """A folder for readers, who meet nothing of the user's: no store, setting, cache or home, and no network."""
    before = dict(os.environ)
    whole = tempfile.TemporaryDirectory(prefix="kdnas-fuzz-", ignore_cleanup_errors=True)
    folder = Path(whole.name)
    folder.chmod(0o755)  # a server of ours may have to run through another account
    own = {"HOME": folder, "XDG_DATA_HOME": folder / "data", "KDNAS_STATE": folder / "state"}
    own |= {"KDNAS_CONFIG": folder / "config", "KDNAS_CACHE": folder / "cache"}
    os.environ.update(HERE | {name: str(path) for name, path in own.items()})
    os.environ.pop("KDNAS_STORAGE", None)
    try:
        yield folder
    finally:
        whole.cleanup()
        os.environ.clear()
        os.environ.update(before)


def _tried(reader: Any, folder: Path, asked: argparse.Namespace, found: Path, given: Path | None) -> dict[str, Any]:
    from benchmarks.fuzz import rounds
    from benchmarks.fuzz.reader import Bench, Given

    own = folder / reader.title
    own.mkdir()
    bench, here = Bench(own), Path.cwd()
    os.chdir(bench.scratch)
    try:
        if given is not None:
            beside = given.with_name(given.name + ".json")
            rows = json.loads(beside.read_text())["rows"] if beside.exists() else None
            one = Given(given.read_bytes(), given.suffix, None if rows is None else tuple(map(tuple, rows)))
            tally = rounds.Tally(reader.title)
            reading = reader.opened(bench)
            rounds.begun(reading)
            tally.fed(reading, one, asked.seed)
            return tally.values(found)
        counted = rounds.fuzzed(reader, bench, asked.minutes * 60, asked.seed, asked.inputs, found)
        return together(counted)
    finally:
        os.chdir(here)
        bench.close()


def together(counted: list[dict[str, Any]]) -> dict[str, Any]:
    """One reader's counts of all processes that fed it."""
    kinds: dict[str, dict[str, Any]] = {}
    for one in (found for each in counted for found in each["found"]):
        known = kinds.setdefault(one["what"], {**one, "times": 0})
        known["times"] += one["times"]
    sums = {name: sum(each[name] for each in counted) for name in ("tried", "refused", "accepted")}
    worst = max(each["worst_s"] for each in counted)
    return {"reader": counted[0]["reader"], **sums, "worst_s": worst, "found": list(kinds.values())}


def table(told: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'reader':<10} {'inputs':>9} {'refused':>9} {'accepted':>9} {'worst CPU s':>12}  wrong"]
    for each in told:
        wrong = "; ".join(one["what"] for one in each["found"]) or "–"
        lines.append(
            f"{each['reader']:<10} {each['tried']:>9,} {each['refused']:>9,} {each['accepted']:>9,} "
            f"{each['worst_s']:>12.2f}  {wrong}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
