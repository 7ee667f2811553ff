"""The readers of TOML: specs of studies and of campaigns, read by the commands that begin them."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from benchmarks.fuzz.commands import command, refusal
from benchmarks.fuzz.reader import Bench, Given, Reader, Reading, Wrong
from kdnas.cli.spec_options import base_values, spec_from
from kdnas.study.campaign_spec import read_campaign
from kdnas.study.spec import StudySpec
from kdnas.study.spec_toml import read_toml, to_toml
from kdnas.system import paths
from kdnas.system.errors import KdnasError
from tests.odd_bytes import mutated
from tests.odd_values import specs, toml_files, written_as_toml


def _sources(bench: Bench, shipped: dict[str, Path], own: list[Path]) -> st.SearchStrategy[Given]:
    known = st.sampled_from([path.read_bytes() for path in [*own, *shipped.values()]])
    often = st.sampled_from([path.read_bytes() for path in own]) if own else known
    found = st.one_of(mutated(often, 3), mutated(often), mutated(known), toml_files, specs().map(written_as_toml))
    return found.map(lambda raw: Given(raw, ".toml"))


def spec(bench: Bench) -> Reading:
    """`kdnas plan --spec FILE`. What names models or data elsewhere is read, and not planned."""

    def feed(given: Given) -> bool:
        path = bench.put(given)
        try:
            found = spec_from(base_values(None, path, None), {})
        except KdnasError as error:
            refusal(error)
            if command("plan", "--spec", str(path)).code == 0:
                raise Wrong("a spec is refused when it is read, and planned") from None
            return False
        again = bench.scratch / "again.toml"
        again.write_text(to_toml(found), encoding="utf-8")
        if read_toml(again) != found:
            raise Wrong("a spec is another one when it is written and read again")
        if _here(bench, found):
            command("plan", "--spec", str(path))
        return True

    return Reading(_sources(bench, paths.presets(), [bench.spec]), feed, Given(bench.spec.read_bytes(), ".toml"))


def _here(bench: Bench, found: StudySpec) -> bool:
    return found.teacher.model == str(bench.kit.teacher) and found.data.source == str(bench.kit.text)


def campaign(bench: Bench) -> Reading:
    """`kdnas campaign FILE.toml --status`, which knows no campaign of that name."""
    store = bench.kit.empty

    def feed(given: Given) -> bool:
        path = bench.put(given, "campaign")
        try:
            read_campaign(path)
        except KdnasError as error:
            refusal(error)
            accepted = False
        else:
            accepted = True
        if command("campaign", str(path), "--status", "--storage", str(store)).code == 0:
            raise Wrong("a campaign that never began has a state")
        return accepted

    shipped = paths.shipped_campaigns()
    return Reading(_sources(bench, shipped, []), feed, Given(next(iter(shipped.values())).read_bytes(), ".toml"))


READERS = [Reader("spec", spec), Reader("campaign", campaign)]
