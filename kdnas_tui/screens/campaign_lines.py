"""The lines of the list of studies: studies that stand alone, and campaigns, each of which opens into its members.

Says which lines there are and in which order; draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdnas.study.campaign_rows import CampaignRow, MemberRow
from kdnas.study.rows import Status, StudyRow
from kdnas_tui import words
from kdnas_tui.theme import MARKS
from kdnas_tui.widgets.list_table import Line


@dataclass(frozen=True)
class Item:
    """A line to be: a study, alone or of a campaign; a campaign; or a member that has no study yet."""

    study: StudyRow | None = None
    campaign: CampaignRow | None = None
    member: MemberRow | None = None

    @property
    def key(self) -> str:
        if self.study is not None:
            return str(self.study.study_id)
        assert self.campaign is not None
        own = f"campaign {self.campaign.campaign_id}"
        return own if self.member is None else f"{own} member {self.member.place}"

    @property
    def name(self) -> str:
        """Of a member that kept the name which its campaign gave its study, the member's: what differs of them."""
        if self.member is not None and self.campaign is not None:
            study = self.member.study if self.study is None else self.study.name
            return self.member.name if study == f"{self.campaign.name}-{self.member.name}" else study
        return self.study.name if self.study is not None else self.campaign.name if self.campaign is not None else ""

    @property
    def heads(self) -> CampaignRow | None:
        """The campaign that this line is the head of."""
        return self.campaign if self.study is None and self.member is None else None


ORDERS: Mapping[str, Callable[[CampaignRow, float], Any]] = {
    "name": lambda campaign, _: campaign.name.casefold(),
    "status": lambda campaign, _: list(Status).index(Status(campaign.status)),
    "teacher": lambda campaign, _: "",
    "data": lambda campaign, _: words.short(campaign.spec["task"]["source"]).casefold(),
    "recipe": lambda campaign, _: "",
    "strategy": lambda campaign, _: "",
    "trials": lambda _, spent: spent,
    "best": lambda campaign, _: float("-inf"),  # a score on a task is no reward
    "updated": lambda campaign, _: campaign.updated,
}
"""Column → what a campaign is sorted by, given how many of its trials have ended."""


class Shelf:
    """The studies and campaigns of a store, of which some are open."""

    def __init__(self, rows: Sequence[StudyRow], campaigns: Sequence[CampaignRow]) -> None:
        by_id = {row.study_id: row for row in rows}
        self._members: dict[int, list[tuple[MemberRow, StudyRow | None]]] = {
            campaign.campaign_id: [
                (member, None if member.study_id is None else by_id.get(member.study_id)) for member in campaign.members
            ]
            for campaign in campaigns
        }
        inside = {row.study_id for members in self._members.values() for _, row in members if row is not None}
        self.campaigns = list(campaigns)
        self.alone = [row for row in rows if row.study_id not in inside]

    def studies_of(self, campaign: CampaignRow) -> list[StudyRow]:
        return [row for _, row in self._members[campaign.campaign_id] if row is not None]

    def spent(self, campaign: CampaignRow) -> int:
        """Ended trials of all members."""
        return sum(row.done for row in self.studies_of(campaign))

    def items(
        self,
        unfolded: set[int],
        passes: Callable[[Item], bool],
        order: Callable[[StudyRow], Any],
        column: str,
        falls: bool,
    ) -> Iterator[Item]:
        """The lines in their order. A campaign stands where its own line or a member's passes; its members stand below
        it, in the order of the spec, where it is open or only they pass."""
        heads = [(order(row), row.name.casefold(), Item(study=row)) for row in self.alone if passes(Item(study=row))]
        below: dict[int, list[Item]] = {}
        for campaign in self.campaigns:
            mine = [Item(row, campaign, member) for member, row in self._members[campaign.campaign_id]]
            found = [item for item in mine if passes(item)]
            own = passes(Item(campaign=campaign))
            if not own and not found:
                continue
            shown = mine if campaign.campaign_id in unfolded and own else [] if own else found
            below[campaign.campaign_id] = shown
            place = ORDERS[column](campaign, self.spent(campaign))
            heads.append((place, campaign.name.casefold(), Item(campaign=campaign)))
        heads.sort(key=lambda head: head[1])  # what is equal stays in one order
        heads.sort(key=lambda head: head[0], reverse=falls)
        for *_, item in heads:
            yield item
            if item.campaign is not None:
                yield from below[item.campaign.campaign_id]

    def line(self, campaign: CampaignRow, open_: bool, now: float) -> Line:
        """A campaign's own line. Its best score is no reward, and stands below the table."""
        sign, look = MARKS[Status(campaign.status)]
        spent = "–" if campaign.timed else f"{self.spent(campaign)}/{campaign.budget:g}"
        return Line(
            Item(campaign=campaign).key,
            (
                f"{'▾' if open_ else '▸'} {campaign.name}",
                f"{sign} {campaign.status}",
                words.plural(len(campaign.members), "member"),
                words.short(campaign.spec["task"]["source"]),
                "campaign",
                "",
                spent,
                "",
                words.ago(now, campaign.updated),
                "",
            ),
            ("strong", look, "quiet", "", "quiet", "quiet", "", "", "quiet", ""),
        )


def waiting(item: Item) -> Line:
    """The line of a member that has no study yet, or whose study was deleted."""
    member = item.member
    assert member is not None
    why = "deleted" if member.study_id is not None else str(member.state)
    cells = (f"  {item.name}", f"○ {why}", words.short(member.teacher), "", member.recipe, "", "", "", "", "")
    return Line(item.key, cells, ("quiet",) * len(cells))


def about(campaign: CampaignRow, now: float) -> str:
    """Where a campaign stands, in one paragraph."""
    parts = [f"{campaign.name}: {campaign.status}"]
    if campaign.finished is None:
        parts.append(f"stage {campaign.stage + 1} of {max(campaign.stage, campaign.rounds) + 1}")
        if campaign.status == "running" and campaign.doing:
            parts.append(campaign.doing)
        if campaign.status == "running" and campaign.pid is not None:
            parts.append(f"pid {campaign.pid} on {campaign.host}")
    parts += [campaign.ending] if campaign.ending else []
    scored = [member for member in campaign.members if member.best is not None]
    if scored and not campaign.result:
        best = max(scored, key=lambda member: member.best or 0.0)
        parts.append(f"best so far {best.name}, {best.best:.4f} on the task's held-out part")
    if campaign.status not in ("running", "finished"):
        parts.append(f"goes on with: kdnas campaign {campaign.name}")
    parts.append(f"begun {words.ago(now, campaign.created)} ago")
    return " · ".join(parts)
