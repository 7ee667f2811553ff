"""A reader goes on hearing of changes, whatever else its process does with the store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kdnas.store import queries
from kdnas.store.database import open_reader, open_store

WRITER = """
import sys
import sqlalchemy as sa
from kdnas.store.database import open_store

with open_store(sys.argv[1]) as store, store.begin() as connection:
    connection.execute(sa.text("INSERT INTO kdnas_meta (key, value) VALUES (:key, 'x')"), {"key": sys.argv[2]})
"""


def test_opening_the_store_again_takes_no_lock_from_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    open_store(path, create=True).close()
    with open_reader(path) as watching:
        seen = [queries.changed(watching)]
        for key in ("a", "b", "c"):
            with open_store(path):  # what a screen does to write a mark
                pass
            open_reader(path).close()
            subprocess.run([sys.executable, "-c", WRITER, str(path), key], check=True)
            seen.append(queries.changed(watching))
        assert len(set(seen)) == len(seen)
