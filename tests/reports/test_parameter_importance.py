"""Importance: what decides the reward comes first, and too little data is said so."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kdnas.reports.parameter_importance import LEAST, importance, main
from kdnas.study.space import Dimension, SearchSpace
from kdnas.system.errors import UsageError
from tests.rows import made_row

SPACE = SearchSpace(
    (
        Dimension("num_hidden_layers", (2, 3, 4, 6)),
        Dimension("hidden_act", ("gelu", "relu", "silu"), ordered=False),
        Dimension("constant", (1,)),
    )
)


def rows(count: int):
    rng = np.random.default_rng(0)
    for number in range(count):
        candidate = SPACE.sample(rng)
        loss = 0.9 - 0.12 * candidate["num_hidden_layers"] + float(rng.normal(0, 0.005))
        yield replace(made_row(number, loss=loss), candidate=candidate)


def test_what_decides_the_reward_comes_first():
    found = importance(list(rows(60)), SPACE, -0.06, 0.6)
    assert found.shares[0][0] == "num_hidden_layers"
    assert found.shares[0][1] > 0.8
    assert {name for name, _ in found.shares} == {"num_hidden_layers", "hidden_act"}
    assert sum(share for _, share in found.shares) == pytest.approx(1.0)
    assert (found.evaluator, found.trials) == ("fanova", 60)


def test_too_few_or_equal_trials_are_said_so():
    with pytest.raises(UsageError, match=f"Wait until there are {LEAST}"):
        importance(list(rows(LEAST - 1)), SPACE, -0.06, 0.6)
    same = [replace(row, candidate=dict(SPACE.from_ordinal(0))) for row in rows(20)]
    with pytest.raises(UsageError, match="alike"):
        importance(same, SPACE, -0.06, 0.6)


def test_a_study_that_is_not_there_is_one_line_and_code_2(tmp_path, capsys):
    assert main(["nothing", "--storage", f"sqlite:///{tmp_path / 'no.db'}", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("kdnas: ") and len(said.err.splitlines()) == 1


def test_as_a_process_it_prints_json_of_a_stored_study(tmp_path):
    from kdnas.store import tables as t
    from kdnas.store.database import open_store
    from kdnas.store.studies import create_study
    from kdnas.study.spec import StudySpec

    url = f"sqlite:///{tmp_path / 'kdnas.db'}"
    with open_store(url, create=True) as store:
        study_id = create_study(store, StudySpec(name="small"))
        with store.begin() as connection:
            connection.execute(t.study.update().values(space=SPACE.to_json()))
            for row in rows(30):
                values = {
                    "study_id": study_id,
                    "candidate": json.dumps(row.candidate),
                    "candidate_key": str(row.number),
                    "revision": 1,
                }
                for name in ("number", "slot", "state", "loss", "raw_loss", "latency_ms", "teacher_latency_ms"):
                    values[name] = getattr(row, name)
                for name in ("epoch", "epochs", "progress", "started", "ended"):
                    values[name] = getattr(row, name)
                connection.execute(t.trial.insert().values(values))
    command = [sys.executable, "-m", "kdnas.reports.parameter_importance", "small", "--storage", url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["importance"][0]["name"] == "num_hidden_layers"
    assert found["trials"] == 30
