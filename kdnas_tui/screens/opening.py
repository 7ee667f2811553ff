"""What the keys of a study open over it: a candidate, α and β, a comparison, an export, a full distillation, its facts.

Each is imported when it is first asked for. Draws nothing.
"""

from __future__ import annotations

from kdnas.system.errors import UsageError
from kdnas_tui import words
from kdnas_tui.screens.filtering import Filtering


class Opening(Filtering):
    """A screen over which others open that share what it watches."""

    def action_candidate(self) -> None:
        if self.watched.current() is not None and not self.still_reading():
            from kdnas_tui.screens.candidate import CandidateScreen

            self.app.push_screen(CandidateScreen(self.watched, self.desk))

    def action_reward(self) -> None:
        if self.watched.trials is not None and self.watched.study is not None:
            from kdnas_tui.screens.rescore import RescoreScreen

            self.app.push_screen(RescoreScreen(self.watched, self.desk))

    def action_compare(self) -> None:
        if self.still_reading():
            return
        chosen = self.watched.marked()
        from kdnas_tui.screens.compare import MOST, CompareScreen

        if not 2 <= len(chosen) <= MOST:
            hint = "Mark two or more with space." if len(chosen) < 2 else f"Unmark some with space: {MOST} at most."
            self.desk.fault(UsageError(f"{words.plural(len(chosen), 'trial')} marked.", hint))
            return
        numbers = [scored.number for scored in chosen]
        self.app.push_screen(CompareScreen(self.watched, self.desk, numbers))

    def action_export(self) -> None:
        if self.watched.study is None or self.watched.trials is None or self.still_reading():
            return
        from kdnas_tui.screens.export import ExportScreen

        self.app.push_screen(ExportScreen(self.watched, self.desk))

    def action_finalize(self) -> None:
        scored = self.watched.current()
        if self.watched.study is None or scored is None or self.still_reading():
            return
        from kdnas_tui.screens.finalize import FinalizeScreen

        self.app.push_screen(FinalizeScreen(self.watched, self.desk, scored.number))

    def action_about(self) -> None:
        if self.watched.study is not None:
            from kdnas_tui.screens.about import AboutScreen

            self.app.push_screen(AboutScreen(self.watched, self.desk))
