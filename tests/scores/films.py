"""The film sentences as they lie in the cache, but few, made up, and without a network."""

from __future__ import annotations

import bz2
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from kdnas.data import shipped
from tests.tiny import WORDS

FILMS, SENTENCES = 25, 8


def sentence(rng: np.random.Generator, kind: int) -> str:
    """Eight plain words, and two that tell the kind."""
    plain = [word for word in WORDS if word not in ("good", "bad")]
    return " ".join([*rng.choice(plain, 8), *[("bad", "good")[kind]] * 2])


def put_films(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """(category, film, sentence) of every row; one sentence stands under two films, in other letters."""
    monkeypatch.setenv("KDNAS_CACHE", str(cache))
    rng = np.random.default_rng(0)
    rows = [
        (("rotten", "fresh")[n % 2], f"film {film}", sentence(rng, n % 2))
        for film in range(FILMS)
        for n in range(SENTENCES)
    ]
    rows[SENTENCES] = (rows[0][0], rows[SENTENCES][1], rows[0][2].upper())
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["category", "filename", "text", "movie_name"])
    writer.writerows([label, "x", words, film] for label, film, words in rows)
    writer.writerow(["plot", "x", "a whole paragraph", "film 0"])
    folder = shipped.folder_of("rotten-tomatoes")
    folder.mkdir(parents=True)
    (folder / "rotten_tomatoes_corpus_full.csv.bz2").write_bytes(bz2.compress(text.getvalue().encode()))
    (folder / shipped.MARK).write_text(json.dumps({"asset": "rotten-tomatoes"}))
    return rows
