"""A campaign's name given to commands that know studies by theirs: one name for two, or for nobody."""

from __future__ import annotations

import pytest

from kdnas.search.begin import begin
from kdnas.store import campaigns, queries
from kdnas.store.database import open_store
from kdnas.system.errors import UsageError
from tests import fakes
from tests.campaigns import formulas
from tests.cli.conftest import Place, Quick


def test_a_campaign_is_deleted_with_its_studies_or_not_at_all(place: Place, quick: Quick) -> None:
    with open_store(place.store, create=True) as store:
        campaigns.begin_campaign(store, formulas.spec(10, ("poor", "good")), "/nowhere")
    begin(fakes.spec("c-poor"), place.store)
    assert "needs a yes" in quick("delete", "c").line
    assert "the studies of its members stay" in quick("delete", "c", "--yes").err
    with open_store(place.store) as store:
        assert campaigns.campaign_rows(store) == [] and [row.name for row in queries.study_rows(store)] == ["c-poor"]
    assert "no study 'c'" in quick("delete", "c", "--yes").line


def test_a_campaign_that_is_refused_leaves_a_store_behind(place: Place, quick: Quick) -> None:
    (place.folder / "c.toml").write_text(
        'name = "c"\n[task]\nsource = "nowhere.csv"\n[budget]\ntrials = 10\n[members.a]\n[members.b]\n'
    )
    assert "There is no data at 'nowhere.csv'" in quick("campaign", "c.toml", "--storage", "new.db").line
    assert not (place.folder / "new.db").exists() and not (place.folder / "campaigns").exists()


def test_an_import_takes_the_name_of_a_member(place: Place, quick: Quick) -> None:
    with open_store(place.store, create=True) as store:
        campaigns.begin_campaign(store, formulas.spec(10, ("poor", "good")), "/nowhere")
    begin(fakes.spec("mine"), place.store)
    formulas.Here(place.store, "mine")
    assert quick("export", "mine", "--output", "mine.json").code == 0
    assert "is that of a member of the campaign 'c'" in quick("import", "mine.json", "--name", "c-poor").line
    assert "The name 'c' is that of a campaign." in quick("import", "mine.json", "--name", "c").line
    assert "The name 'c' is that of a campaign." in quick("search", "c", "--preset", "quickstart").line
    with open_store(place.store) as store, pytest.raises(UsageError, match="There is a study 'mine' already"):
        campaigns.begin_campaign(store, formulas.spec(10, name="mine"), "/nowhere")
    with open_store(place.store) as store:
        assert [row.name for row in queries.study_rows(store)] == ["mine"]


def test_a_campaign_given_for_a_study_is_called_unknown(place: Place, quick: Quick) -> None:
    with open_store(place.store, create=True) as store:
        campaigns.begin_campaign(store, formulas.spec(10, ("poor", "good")), "/nowhere")
    begin(fakes.spec("c-poor"), place.store)
    for command in (["show", "c"], ["logs", "c"], ["pause", "c"], ["rescore", "c", "--alpha", "-0.1"], ["resume", "c"]):
        said = quick(*command)
        assert said.code == 2 and "c is a campaign" in said.line and "kdnas campaign c --status" in said.line, command
    assert "no study 'd'" in quick("show", "d").line
