"""The study's finished trials by its α, β and constraints of now, for strategy and pruner. Writes nothing."""

from __future__ import annotations

import gc

from kdnas.store.database import Store
from kdnas.store.limits import Violations
from kdnas.store.present import Present
from kdnas.store.rewards import Rescoring
from kdnas.store.trial_figures import TrialFigures
from kdnas.strategies.one_objective import Rescored
from kdnas.study.spec import StudySpec

ASIDE = 50  # trials


class Hindsight:
    """Of one study, for one worker; what changed alone is read and computed again."""

    def __init__(self, store: Store, study_id: int, spec: StudySpec, rescored: Rescored) -> None:
        self.prunes = spec.budget.pruner != "none" and not spec.two_objectives
        self._rescored = rescored
        self._two = spec.two_objectives
        self._figures = TrialFigures(store, study_id, epochs=self.prunes)
        self._rewards = Rescoring(self._figures, spec.reward.loss)
        self._violations = Violations(self._figures, raw=spec.reward.loss == "raw")
        self._aside = 0

    def use(self, at: Present) -> None:
        """From here on strategy and pruner see every trial by the study as it is `at` this look."""
        rescores = at.reward_changed and not self._two
        changed = self._figures.read() if rescores or at.limits else ()
        if at.ever_constrained:
            self._rescored.constrain(self._violations.now(at.limits, changed))
        if rescores:
            found = self._rewards.now(at.alpha, at.beta, changed)
            self._rescored.use(found.final, found.by_epoch)

    def set_aside(self, trials: int) -> None:
        """Of so many trials that are held in memory: once there are many new ones, the search for garbage passes them
        over, which each trial ends with. They stay to the end."""
        if trials >= self._aside + ASIDE:
            self._aside = trials
            gc.collect()
            gc.freeze()
