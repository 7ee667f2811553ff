"""The reader of filters, over the trials of the recorded study that ships."""

from __future__ import annotations

import shutil

from hypothesis import strategies as st

from benchmarks.fuzz.commands import command
from benchmarks.fuzz.reader import Bench, Given, Reader, Reading
from kdnas.store import recording
from kdnas.store.database import open_store
from tests.odd_bytes import mutated
from tests.odd_values import filters

KNOWN = (
    b"state:done latency<8 layers>=4 act:gelu", b"latency<8ms", b"params<=14M", b"speedup>3x", b"reward!=0.8",
    b"layers:4,6", b"is:front or is:tie", b'tag:keep note:"try again"', b"not (a or b) c", b"#413", b"rung:0",
    b"origin=random",
)  # fmt: skip


def filter_(bench: Bench) -> Reading:
    """`kdnas show STUDY --filter TEXT`; a fault is underlined above the line that says it."""
    store = bench.folder / "recorded.db"
    shutil.copy(bench.kit.empty, store)
    with open_store(store) as opened:
        name = recording.read(recording.shipped(), opened)

    def feed(given: Given) -> bool:
        words = ("show", name, f"--filter={given.raw.decode('utf-8', 'surrogateescape')}", "--storage", str(store))
        return command(*words, "--top", "3", lines=3).code == 0

    said = filters.map(lambda text: text.encode("utf-8", "surrogatepass"))
    return Reading((said | mutated(st.sampled_from(KNOWN))).map(Given), feed, Given(b"layers>=2"))


READERS = [Reader("filter", filter_)]
