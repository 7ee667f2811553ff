"""The list of studies in the store, each with its true status; where everything else begins."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Input, Static

from kdnas.study import study_words
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.rows import Status, StudyRow, WorkerRow
from kdnas.study.time_budget import asked_again
from kdnas.system.errors import UsageError
from kdnas.system.text import clean
from kdnas_tui import words
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.keys import worded
from kdnas_tui.screens.ask import Answer, Ask, Write
from kdnas_tui.screens.campaign_lines import Item, Shelf, about, waiting
from kdnas_tui.screens.frame import Frame, bindings, writes
from kdnas_tui.screens.study_lines import COLUMNS, ORDERS, TAGS, TITLES, about_study, study_line
from kdnas_tui.widgets.field import Field
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.list_table import Line, ListTable
from kdnas_tui.widgets.says import Says

ALIVE = {Status.RUNNING, Status.PAUSING, Status.PAUSED, Status.STOPPING}


class StudiesScreen(Frame):
    NAME = "studies"
    BINDINGS = bindings("studies")
    PANES = {
        "studies": "Every study of the store, the one that changed last first; <studies.sort_previous> and "
        "<studies.sort_next> sort by another column, <studies.sort_turn> turns the order round, a click on a title "
        "sorts by it. The status is the true one: it comes from the workers' own locks and heartbeats, not from what "
        "was last asked of them. ▸ is a campaign: <studies.unfold> shows the studies of its members below it, "
        "<studies.open> its own screen.",
        "filter": "Words that a study's line, tags or note must contain; several words must all be there. tag:word "
        "asks for the tag itself.",
    }

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.rows: list[StudyRow] = []
        self._crew: Mapping[int, list[WorkerRow]] = {}
        self._words: list[str] = []
        self.read = False
        self._fault = ""
        self.marked: set[int] = set()  # numbers of studies
        self._order = ("updated", True)  # column, and whether it falls
        self.campaigns: list[CampaignRow] = []
        self.unfolded: set[int] = set()  # numbers of campaigns
        self._shelf, self._items = Shelf((), ()), dict[str, Item]()

    def compose(self) -> ComposeResult:
        yield Says(id="head", classes="head")
        table = ListTable(COLUMNS, id="studies")
        table.empty = "Reading the store …"
        yield table
        yield Static(id="detail", classes="detail")
        yield Field(placeholder="words, for example: running minilm", id="filter")
        yield KeyBar("studies")

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self._draw_head()

    def on_screen_resume(self) -> None:
        self.desk.feed.watch(None)

    def hear(self, news: News) -> None:
        if news.error is not None:
            self._fault = f"{news.error.problem} {news.error.hint}"
            self.rows, self.campaigns, self.read = [], [], True
            self._shelf = Shelf((), ())
            self._draw()
        if news.studies is not None:
            self.rows, self._crew, self.read, self._fault = news.studies, news.crew or {}, True, ""
            self.campaigns = news.campaigns or []
            self._shelf = Shelf(self.rows, self.campaigns)
            self._draw()

    # ------------------------------------------------------------------ drawing

    def _draw(self) -> None:
        table = self.query_one(ListTable)
        table.empty = self._nothing()
        column, falls = self._order
        items = list(self._shelf.items(self.unfolded, self._passes, ORDERS[column][0], column, falls))
        self._items = {item.key: item for item in items}
        columns = (*COLUMNS, TAGS) if any(row.tags for row in self.rows) else COLUMNS
        other = columns if columns != table.columns else None
        table.fill([self._line(item) for item in items], other, order=(TITLES.index(column), falls))
        self._draw_head()
        self._draw_detail()

    def _nothing(self) -> str:
        if self._fault:
            return ""
        if self.rows or self.campaigns:
            return worded("No study has these words. Press <studies.back> to see all.")
        return worded("No study yet. Press <studies.new> to begin one.") if self.read else "Reading the store …"

    def _draw_head(self) -> None:
        text = Text()
        text.append("kdnas", style="bold")
        text.append("  studies", style="")
        if self.read and not self._fault:
            counts = [words.plural(len(self.rows), "study", "studies")]
            counts += [words.plural(len(self.campaigns), "campaign")] if self.campaigns else []
            for status in (Status.RUNNING, Status.PAUSED):
                number = sum(row.status is status for row in self.rows)
                counts += [f"{number} {status}"] if number else []
            text.append(f"   {', '.join(counts)}", style="dim")
        text.append(f"   {words.shown_storage(self.desk.storage)}", style="dim")
        text.no_wrap, text.overflow = True, "ellipsis"
        self.query_one("#head", Says).show(text)

    def _draw_detail(self) -> None:
        detail = self.query_one("#detail", Static)
        row, item = self._row(), self._item()
        detail.set_class(bool(self._fault), "fault")
        if self._fault:
            detail.update(Text(self._fault))
        elif row is None and item is not None and item.campaign is not None:
            detail.update(Text(self._about_campaign(item.campaign, item)))
        elif row is None:
            detail.update("")
        else:
            detail.update(Text(about_study(row, self._crew.get(row.study_id, []), self.desk.clock())))

    def _about_campaign(self, campaign: CampaignRow, item: Item) -> str:
        if item.member is None:
            return clean(about(campaign, self.desk.clock()))
        member = item.member
        why = f": {member.reason}" if member.reason else ""
        return clean(f"{member.name} of the campaign {campaign.name} has no study: {member.state}{why}")

    def _line(self, item: Item) -> Line:
        row = item.study
        if row is None:
            campaign = item.heads
            if campaign is None:
                return waiting(item)
            return self._shelf.line(campaign, campaign.campaign_id in self.unfolded, self.desk.clock())
        return study_line(item, row.study_id in self.marked, self.desk.clock())

    def _passes(self, item: Item) -> bool:
        cells = self._line(item).cells
        if item.study is None:
            return study_words.in_cells(cells, self._words)
        return study_words.passes(item.study, (*cells, item.study.name), self._words)

    def _item(self) -> Item | None:
        key = self.query_one(ListTable).current
        return None if key is None else self._items.get(key)

    def _row(self) -> StudyRow | None:
        """The study under the cursor."""
        item = self._item()
        return None if item is None else item.study

    def _asked(self) -> StudyRow | None:
        """The study under the cursor, for a key that is of studies; where none is there it is said why."""
        item = self._item()
        if item is not None and item.study is None and item.campaign is not None:
            what = f"{item.campaign.name} is a campaign" if item.member is None else f"{item.member.name} has no study"
            self.notify(f"{what}; this key is of studies.", timeout=4, markup=False)
        return None if item is None else item.study

    # ------------------------------------------------------------------ order

    def _sort_by(self, column: str) -> None:
        """By this column; the same one again turns the order round."""
        again = column == self._order[0]
        self._order = (column, not self._order[1] if again else ORDERS[column][1])
        self._draw()

    def action_sort(self, step: int) -> None:
        """By the column beside the present one, of those that have room; 0 turns the order round."""
        shown = [TITLES[i] for i in self.query_one(ListTable).shown]
        here = self._order[0]
        if step == 0 or not shown:
            self._sort_by(here)
        else:
            at = shown.index(here) if here in shown else -step if step > 0 else 0
            self._sort_by(shown[(at + step) % len(shown)])

    def on_list_table_title_clicked(self, event: ListTable.TitleClicked) -> None:
        self._sort_by(TITLES[event.column])

    # ------------------------------------------------------------------ events and actions

    def on_list_table_moved(self) -> None:
        self._draw_detail()

    def on_list_table_chosen(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        item = self._item()
        if item is not None and item.study is not None:
            self.desk.open_study(item.study.name)
        elif item is not None and item.heads is not None:
            from kdnas_tui.screens.campaign import CampaignScreen

            self.app.push_screen(CampaignScreen(self.desk, item.heads))
        elif item is not None:
            self._asked()
        elif not self.rows and not self._fault:
            self.action_new()

    def action_unfold(self) -> None:
        """Show the members of the campaign under the cursor."""
        self._fold(True)

    def action_fold(self) -> None:
        """Hide the members again, from one of their lines, too."""
        self._fold(False)

    def _fold(self, open_: bool) -> None:
        item = self._item()
        if item is None or item.campaign is None:
            return
        mine = {item.campaign.campaign_id}
        self.unfolded = self.unfolded | mine if open_ else self.unfolded - mine
        self._draw()
        if not open_:
            self.query_one(ListTable).go_to(Item(campaign=item.campaign).key)

    def action_new(self) -> None:
        from kdnas_tui.screens.new_study import NewStudyScreen

        self.app.push_screen(NewStudyScreen(self.desk, {}))

    def action_new_campaign(self) -> None:
        from kdnas_tui.screens.new_campaign import NewCampaignScreen

        self.app.push_screen(NewCampaignScreen(self.desk))

    def action_duplicate(self) -> None:
        row = self._asked()
        if row is None:
            return
        from kdnas_tui.screens.new_study import NewStudyScreen

        values = {**asked_again(row.spec, row.created), "name": words.free_name(row.name, {r.name for r in self.rows})}
        values["reward"] = {**values.get("reward", {}), "alpha": row.alpha, "beta": row.beta}
        if not row.open:
            values["budget"] = {**values.get("budget", {}), "trials": row.trials}
        self.app.push_screen(NewStudyScreen(self.desk, values))

    @writes
    def action_rename(self) -> None:
        row = self._asked()
        if row is None:
            return
        taken = {r.name for r in self.rows} - {row.name}

        def check(name: str) -> None:
            check_name(name, taken)

        def answered(name: str | None) -> None:
            if name is not None and name != row.name:
                from kdnas.store import changes

                self.desk.change(lambda store: changes.rename(store, row.study_id, name), f"{row.name} is now {name}.")

        self.app.push_screen(Write(f"Another name for {row.name}", row.name, check=check), answered)

    def action_mark(self) -> None:
        row = self._asked()
        if row is not None:
            self.marked ^= {row.study_id}
            self._draw()

    def action_compare(self) -> None:
        from kdnas.reports.study_comparison import MOST
        from kdnas_tui.screens.compare_studies import CompareStudiesScreen

        chosen = tuple(row.study_id for row in self.rows if row.study_id in self.marked)
        if 2 <= len(chosen) <= MOST:
            self.app.push_screen(CompareStudiesScreen(self.desk, chosen))
        else:
            self.notify(f"{len(chosen)} studies are marked; space marks two to {MOST}.", timeout=4, markup=False)

    def action_copy_as(self) -> None:
        row = self._asked()
        if row is not None:
            from kdnas_tui.screens import copying

            best = "" if row.best_number is None else f"its best candidate (trial {row.best_number})"
            copying.ask(self, self.desk, row, best, lambda *form: copying.copy_best(self.desk, row, *form))

    @writes
    def action_tags(self) -> None:
        row = self._asked()
        if row is None:
            return
        from kdnas.store import changes

        def check(text: str) -> None:
            for word in text.split():
                changes.require_tag(word)

        def answered(text: str | None) -> None:
            if text is not None:
                self.desk.change(lambda store: changes.replace_study_tags(store, row.study_id, text.split()))

        detail = "Words separated by spaces; tag:word in the filter finds them."
        self.app.push_screen(Write(f"Tags of {row.name}", " ".join(row.tags), detail=detail, check=check), answered)

    @writes
    def action_note(self) -> None:
        row = self._asked()
        if row is None:
            return
        from kdnas.store import changes

        def answered(text: str | None) -> None:
            if text is not None and text != shown:
                self.desk.change(lambda store: changes.set_study_note(store, row.study_id, text.strip()))

        shown = clean(row.note)  # on one line; what holds more stays as it is unless it is written anew
        self.app.push_screen(Write(f"A note to {row.name}", shown), answered)

    @writes
    def action_delete(self) -> None:
        item = self._item()
        if item is not None and item.heads is not None:
            self._delete_campaign(item.heads)
            return
        row = self._asked()
        if row is None:
            return
        if row.status in ALIVE:
            self.desk.fault(UsageError(f"{row.name} has a worker.", "Open it and stop it first."))
            return

        def answered(answer: str | None) -> None:
            if answer == "delete":
                from kdnas_tui import workers

                self.desk.command(lambda: workers.delete(row.name, self.desk.storage), f"{row.name} is deleted.")

        done = words.plural(row.done, "finished trial")
        self.app.push_screen(
            Ask(
                f"Delete {row.name}?",
                [Answer("keep", "Keep it"), Answer("delete", "Delete it", f"with its {done}; this cannot be undone")],
            ),
            answered,
        )

    def _delete_campaign(self, campaign: CampaignRow) -> None:
        if campaign.status == "running":
            self.desk.fault(UsageError(f"The campaign {campaign.name} runs.", "Open it and stop it first."))
            return

        def answered(answer: str | None) -> None:
            if answer == "delete":
                from kdnas_tui import workers

                name = campaign.name
                self.desk.command(lambda: workers.delete(name, self.desk.storage), f"The campaign {name} is deleted.")

        explains = "with its shares, scores and table; the studies of its members stay"
        answers = [Answer("keep", "Keep it"), Answer("delete", "Delete it", explains)]
        self.app.push_screen(Ask(f"Delete the campaign {campaign.name}?", answers), answered)

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)  # at once: what is typed next is for it

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = study_words.words(event.value)
        self._draw()

    def on_input_submitted(self) -> None:
        self.query_one(ListTable).focus()
        self.query_one("#filter").display = bool(self._words)

    def action_back(self) -> None:
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        self.query_one(ListTable).focus()


def check_name(name: str, taken: set[str]) -> None:
    from kdnas.study.spec import NAME

    if not NAME.fullmatch(name):
        raise UsageError(
            f"The name {name!r} does not fit." if name else "A study needs a name.",
            "Use 1 to 80 letters, digits, dots, dashes and underscores, a letter or digit first.",
        )
    if name in taken:
        raise UsageError(f"There is a study {name} already.", "Choose another name.")
