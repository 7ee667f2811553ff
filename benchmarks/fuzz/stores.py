"""The readers of what brings studies into a store, and of a store's address: import, restore, `--storage`."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from typing import Any

from hypothesis import strategies as st
from sqlalchemy.engine import URL

from benchmarks.fuzz.commands import command, refusal
from benchmarks.fuzz.reader import Bench, Given, Reader, Reading, Wrong
from benchmarks.torture.faults import NotHere
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.addresses import shown, store_url
from kdnas.store.database import open_reader
from kdnas.system.errors import KdnasError
from tests import fakes, odd_addresses
from tests.odd_bytes import PIECES, mutated
from tests.odd_values import export_files
from tests.study import test_export

SIDES = ("", "-wal", "-shm")  # files of one store


def _fresh(bench: Bench, raw: bytes | None = None, name: str = "into.db") -> str:
    """A store of these bytes, without studies where none are given."""
    place = bench.scratch / name
    for side in SIDES:
        place.with_name(place.name + side).unlink(missing_ok=True)
    if raw is None:
        shutil.copy(bench.kit.empty, place)
    else:
        place.write_bytes(raw)
    return str(place)


def _names(place: str) -> list[str]:
    with open_reader(place) as store:
        return [row.name for row in queries.study_rows(store)]


def import_(bench: Bench) -> Reading:
    """`kdnas import FILE`, then `kdnas show` of what came in: as many candidates wait as the file lists."""
    body = test_export.made()
    hostile = {**body, "spec": {**body["spec"], "teacher": {**body["spec"]["teacher"], "model": "x\x1b]0;t\x07\u202e"}}}
    texts = [json.dumps(one, indent=indent).encode() for one in (body, hostile) for indent in (None, 1)]
    found = mutated(st.sampled_from(texts)) | mutated(st.sampled_from(texts), 2) | export_files(body)

    def feed(given: Given) -> bool:
        place = _fresh(bench)
        path = bench.put(given)
        if command("import", str(path), "--storage", place).code != 0:
            if _names(place):
                raise Wrong("an import is refused and leaves a study")
            return False
        [name] = _names(place)
        listed = json.loads(given.raw.decode("utf-8-sig"))["candidates"]
        with contextlib.closing(sqlite3.connect(place)) as rows:
            waiting = rows.execute("SELECT count(*) FROM kdnas_slot WHERE candidate IS NOT NULL").fetchone()[0]
        if waiting != len(listed):
            raise Wrong("other candidates wait than the file lists", f"{waiting} of {len(listed)}")
        _looked_at(place, [name])
        return True

    return Reading(found.map(lambda raw: Given(raw, ".json")), feed, Given(texts[0], ".json"))


def restore(bench: Bench) -> Reading:
    """`kdnas restore FILE`, then what the commands that look make of it. What is refused leaves nothing behind."""
    base = bench.folder / "backup.db"
    begin(fakes.spec(budget={"trials": 3, "epochs": 1}), base)
    run_worker(str(base), "fake", prepare=fakes.prepare, measure=fakes.measure)
    begin(fakes.spec("other"), base)
    with contextlib.closing(sqlite3.connect(base)) as rows:
        rows.execute("PRAGMA journal_mode=DELETE").close()
        columns = [
            (table, column[1])
            for (table,) in rows.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
            for column in rows.execute(f'PRAGMA table_info("{table}")')
        ]
    whole = base.read_bytes()
    edits = st.lists(st.tuples(st.sampled_from(columns), st.integers(0, 5), _cells), min_size=1, max_size=3)
    found = st.one_of(edits.map(lambda each: _edited(whole, each)), mutated(st.just(whole), 8))

    def feed(given: Given) -> bool:
        source, place = _fresh(bench, given.raw, "given.db"), _fresh(bench)
        if command("restore", source, "--storage", place).code != 0:
            if _names(place):
                raise Wrong("a restore is refused and leaves a study")
            return False
        _looked_at(place, [name for name in _names(place) if name.isprintable() and name])
        return True

    return Reading(found.map(lambda raw: Given(raw, ".db")), feed, Given(whole, ".db"))


def _looked_at(place: str, names: list[str]) -> None:
    """What came in is listed and shown, or refused in a line; nothing of it gets out."""
    command("studies", "--storage", place)
    for name in names:
        command("show", "--storage", place, "--", name)
        command("logs", "--storage", place, "--", name)


_cells: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [None, 0, -1, 2**63 - 1, -(2**63), 1e308, 5e-324, float("inf"), "", "x", "done", "[]", "{}", "null"]
    ),
    st.sampled_from(["NaN", '{"a": NaN}', '"x"', "[" * 3000, '{"name": 3}', "²", "9" * 5000, "DROP", "DELETE"]),
    st.sampled_from(PIECES),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=8),
)


def _edited(whole: bytes, edits: list[tuple[tuple[str, str], int, Any]]) -> bytes:
    """The store with some of its cells replaced by values of any type; bytes stand for texts of whatever they are."""
    rows = sqlite3.connect(":memory:", isolation_level=None)
    rows.deserialize(whole)
    rows.execute("PRAGMA ignore_check_constraints=ON")
    for (table, column), nth, value in edits:
        with contextlib.suppress(sqlite3.Error, UnicodeEncodeError):  # what the table's own rules refuse stays
            if value == "DROP":
                rows.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "{column}_gone"')
            elif value == "DELETE":
                rows.execute(f'DELETE FROM "{table}"')
            else:
                one = f'SELECT rowid FROM "{table}" LIMIT 1 OFFSET {nth}'
                new = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
                rows.execute(f'UPDATE "{table}" SET "{column}" = {new} WHERE rowid IN ({one})', (value,))
    raw = rows.serialize()
    rows.close()
    return raw


def address(bench: Bench) -> Reading:
    """`kdnas studies --storage ADDRESS`, with a server of ours behind some; no other host is ever asked."""
    try:
        server = bench.kit.server("addresses")
    except NotHere:
        ours: list[str] = []
    else:
        ours = [f"postgresql://{{user}}@127.0.0.1:{server.port}/{{database}}"]
    known = [
        b"sqlite:///studies/kdnas.db",
        b"studies/kdnas.db",
        b"postgresql://ann:S3cr3tWord@127.0.0.1:1/db?sslmode=off",
    ]
    texts = odd_addresses.addresses.map(lambda text: text.encode("utf-8", "surrogatepass"))
    found = [texts, mutated(st.sampled_from(known))]
    if ours:
        piece = odd_addresses.pieces.filter(lambda text: "@" not in text)
        hers = st.builds(
            lambda user, database, more: ours[0].format(user=user, database=database) + more,
            piece, piece,
            st.sampled_from(["", "?sslmode=bad", "?connect_timeout=x", "?options=-c%20x", "?password=S3cr3tWord"]),
        )  # fmt: skip
        found.append(hers.map(lambda text: text.encode("utf-8", "surrogatepass")))

    def feed(given: Given) -> bool:
        said = given.raw.decode("utf-8", "surrogateescape")
        secret = odd_addresses.is_secret(said)
        try:
            url = store_url(said)
        except KdnasError as error:
            refusal(error)
            told = command("studies", f"--storage={said}")
            if told.code == 0:
                raise Wrong("an address is refused when it is read, and opened") from None
            _hidden(str(error) + told.err, secret)
            return False
        file = url.get_backend_name() == "sqlite"
        _hidden(shown(url), secret and not file)
        if file or _local(url):
            told = command("studies", f"--storage={said}")
            _hidden(told.out + told.err, secret and not file)
        return True

    return Reading(st.one_of(*found).map(Given), feed, Given(known[0]))


def _local(url: URL) -> bool:
    return url.host in ("127.0.0.1", "[::1]", "::1") and not {"host", "hostaddr", "service"} & set(url.query)


def _hidden(said: str, secret: bool) -> None:
    if secret and odd_addresses.SECRET in said:
        raise Wrong("a password is printed", said)


READERS = [Reader("import", import_), Reader("restore", restore), Reader("address", address)]
