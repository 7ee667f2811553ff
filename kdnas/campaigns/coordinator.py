"""Runs a campaign: shares granted, members searched one after the other, scores, decisions, and the ending.

Everything that is decided is read back from the store before the next step, so that a coordinator that was killed at
any moment goes on to the same decisions. Loads no model itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnas.campaigns.contract import Hands, Process, ended_in_order
from kdnas.search.begin import begin
from kdnas.store import campaigns, changes, ends, queries
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store, open_store
from kdnas.study import halving
from kdnas.study.campaign_rows import CampaignRow, CampaignStatus, MemberRow, MemberState
from kdnas.study.campaign_spec import campaign_from
from kdnas.study.ranked_rows import rank_of
from kdnas.study.ranking import Scored
from kdnas.study.rows import Status, StudyRow
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_differences import differences
from kdnas.study.states import TrialState, Wanted
from kdnas.study.time_budget import EVENT as TIME_SET
from kdnas.system import interrupts, liveness
from kdnas.system.errors import KdnasError

LOOK_S = 0.1  # between two looks at a worker
BEAT_S = 2.0  # how often the store hears that the coordinator lives
PATIENCE_S = 30.0  # for workers to end properly after Ctrl-C
ATTEMPTS = 5  # workers that end one after the other without a finished trial before their member has failed


class MemberError(KdnasError):
    """A member cannot go on; its share is for the others."""


class StoppedError(KdnasError):
    """Somebody stopped a member's study, and with it the campaign."""


def run(storage: str | Path, name: str, hands: Hands, tell: Callable[[str], None]) -> CampaignRow:
    """Coordinates a campaign that has begun until its end; its row then. `tell` hears lines for people.

    Raises UsageError while another coordinator lives, KdnasError where every member failed; KeyboardInterrupt passes
    through once the workers have ended in order.
    """
    with open_store(storage) as store, interrupts.interruptible():
        row = campaigns.campaign_row(store, name)
        if row.status is CampaignStatus.FINISHED:
            return row
        hold = liveness.Hold()
        try:
            campaigns.take(store, row.campaign_id, str(hold.path))
            try:
                return _Coordinator(store, storage, row, hands, tell).run()
            except BaseException as error:
                _leave(store, row.campaign_id, error)
                raise
        finally:
            hold.release()


def _leave(store: Store, campaign_id: int, error: BaseException) -> None:
    """The campaign says why it doesn't go on now."""
    state = CampaignStatus.STOPPED if isinstance(error, KeyboardInterrupt | StoppedError) else CampaignStatus.FAILED
    if isinstance(error, KeyboardInterrupt):
        words = "Stopped; the same command goes on."
    else:
        words = str(error) if isinstance(error, KdnasError) else f"A fault of kdnas: {type(error).__name__}: {error}"
    with contextlib.suppress(KdnasError):  # the store is away: that the lock is gone says enough
        campaigns.leave(store, campaign_id, state, words)


class _Coordinator:
    def __init__(
        self, store: Store, storage: str | Path, row: CampaignRow, hands: Hands, tell: Callable[[str], None]
    ) -> None:
        self.store, self.storage, self.hands, self.tell = store, storage, hands, tell
        self.name, self.campaign_id = row.name, row.campaign_id
        self.spec = campaign_from(row.spec)
        self.rounds = row.rounds
        self._beaten = 0.0

    @property
    def row(self) -> CampaignRow:
        return campaigns.campaign_row(self.store, self.name)

    def beat(self, words: str) -> None:
        """The store hears of it, not more often than every BEAT_S."""
        interrupts.check()
        if time.monotonic() - self._beaten >= BEAT_S:
            self._beaten = time.monotonic()
            campaigns.beat(self.store, self.campaign_id, words)

    # ------------------------------------------------------------------------ stages

    def run(self) -> CampaignRow:
        for stage in range(self.rounds):
            self._round(stage)
        self._last()
        self._beaten = 0.0
        self.beat("the ending")
        result = self.hands.finish(self.row, self.beat)
        campaigns.finish(self.store, self.campaign_id, result, str(result["verdict"]))
        return self.row

    def _spend(self, stage: int) -> list[MemberRow]:
        """The members of a stage spend their shares; those of them that have not failed."""
        for member in self._granted(self.row, stage):
            if member.state is MemberState.SEARCHING:
                self._searched(member)
        return [member for member in self._in_stage(stage) if member.state is MemberState.SEARCHED]

    def _round(self, stage: int) -> None:
        if any(decision.stage == stage for decision in self.row.decisions):
            return
        alive = self._spend(stage)
        if not alive:
            reasons = "; ".join(f"{m.name}: {m.reason.rstrip('.')}" for m in self.row.members)
            raise KdnasError(f"No member of the campaign {self.name} can go on: {reasons}.", "Fix them and go on.")
        for member in alive:
            self._scored(member, stage)
        self._decide(stage, alive)

    def _last(self) -> None:
        """The stage that decides nothing; where its member fails, its runner-up has a stage of its own after it."""
        stage = self.rounds
        while not self._spend(stage) and self._replaced(stage):
            stage += 1

    def _replaced(self, stage: int) -> bool:
        """Whether somebody has what the failed members of a last stage left, which is recorded as a decision."""
        row = self.row
        if any(decision.stage == stage for decision in row.decisions):
            return True
        last = next(decision for decision in row.decisions if decision.stage == self.rounds - 1)
        failed = [member for member in row.members if member.state is MemberState.FAILED]
        name = halving.successor(last.facts["scores"], [member.name for member in failed])
        if name is None:
            self.tell("the last stage's member has failed, and nobody is left to have its share")
            return False
        facts = {
            "rule": halving.RULE,
            "constants": last.facts["constants"],
            "seed": self.spec.seed,
            "scoring": self.spec.scoring.model_dump(),
            "scores": last.facts["scores"],
            "going": [name],
            "out": {member.name: member.reason for member in failed if member.stage == stage},
            "spent": {member.name: self._spent(member) for member in row.members},
            **_episode(row),
        }
        campaigns.decide(self.store, self.campaign_id, stage, facts, [name], {})
        self.tell(f"{name} has what is left, in place of {_names([m for m in failed if m.stage == stage])}")
        return True

    def _granted(self, row: CampaignRow, stage: int) -> list[MemberRow]:
        """The members of a stage, with what they may have spent at its end."""
        begun = [m for m in row.members if m.stage == stage and m.state is not MemberState.WAITING]
        if stage > row.stage or not begun:
            going = self._alive(row, stage)
            spent = {member.name: self._spent(member) for member in row.members}
            each = halving.share(row.budget, sum(spent.values()), stage, len(row.members), len(going))
            part = each if row.timed else halving.whole(each)
            shares = {m.name: spent[m.name] + part for m in going}
            if not row.timed and stage >= self.rounds and going:  # what no share of a whole trial is left of
                shares[going[0].name] += row.budget - sum(spent.values()) - part * len(going)
            campaigns.grant(self.store, self.campaign_id, stage, shares)
            if going:
                unit = "h" if row.timed else "trials"
                last = max(stage, self.rounds) + 1
                self.tell(f"stage {stage + 1} of {last}: {part:.3g} {unit} for each of {_names(going)}")
        return self._in_stage(stage)

    def _alive(self, row: CampaignRow, stage: int) -> list[MemberRow]:
        if stage == 0:
            return [m for m in row.members if m.state is not MemberState.FAILED]
        last = next(decision for decision in row.decisions if decision.stage == stage - 1)
        names = last.facts["going"]
        return sorted((m for m in row.members if m.name in names), key=lambda m: names.index(m.name))

    def _in_stage(self, stage: int) -> list[MemberRow]:
        return [m for m in self.row.members if m.stage == stage and m.state is not MemberState.WAITING]

    def _spent(self, member: MemberRow) -> float:
        """Trials that have ended; of a campaign of hours what was granted, which one that fails gives back in part."""
        if self.spec.budget.trials is None:
            return member.granted
        study = queries.find_study(self.store, member.study)
        return 0.0 if study is None else float(study.done)

    # ------------------------------------------------------------------------ one member

    def _searched(self, member: MemberRow) -> None:
        """Its study has spent its share; or it has failed, which is recorded."""
        try:
            row = self._begun(member)
            campaigns.set_member(
                self.store, self.campaign_id, member.name, MemberState.SEARCHING, study_id=row.study_id
            )
            self._worked_off(member, row)
        except MemberError as error:
            self._fail(member, str(error))
            return
        except (StoppedError, StoreError):
            raise
        except KdnasError as error:  # its teacher, its data, its space
            self._fail(member, str(error))
            return
        campaigns.set_member(self.store, self.campaign_id, member.name, MemberState.SEARCHED)

    def _fail(self, member: MemberRow, why: str) -> None:
        self.tell(f"{member.name} has failed, and its share is for the others: {why}")
        campaigns.set_member(
            self.store, self.campaign_id, member.name, MemberState.FAILED, reason=why, granted=self._used(member)
        )

    def _used(self, member: MemberRow) -> float | None:
        """Of a campaign of hours, those that a member has had so far; None of one of trials."""
        if self.spec.budget.trials is not None:
            return None
        row = queries.find_study(self.store, member.study)
        if row is None or row.until is None:
            return self._granted_before(member)
        left = max(0.0, row.until - ends.now(self.store)) / 3600
        return max(self._granted_before(member), member.granted - left)

    def _begun(self, member: MemberRow) -> StudyRow:
        """The member's study, wanted to run, with its whole grant as its budget."""
        row = queries.find_study(self.store, member.study)
        if row is None or member.study_id is None:
            spec = self.hands.member(self.row, member.name)
            if row is not None:
                _require_own(row, spec, self.name)
        if row is None:
            hours = self.spec.budget.trials is None
            budget: dict[str, Any] = {"hours": member.granted} if hours else {"trials": int(member.granted)}
            given = {**spec.model_dump(mode="json"), "budget": {**_without_end(spec.budget.model_dump()), **budget}}
            return begin(type(spec).model_validate(given), self.storage).row
        if self.spec.budget.trials is None:
            self._more_time(member, row)
        elif row.trials < int(member.granted):
            changes.set_trials(self.store, row.study_id, int(member.granted))
        changes.set_wanted(self.store, row.study_id, Wanted.RUN)
        return queries.study_of(self.store, row.study_id)

    def _more_time(self, member: MemberRow, row: StudyRow) -> None:
        """Its share of this stage's hours from now on, once: an end that was set after the last decision is of this
        stage."""
        decided = max((d.time for d in self.row.decisions), default=0.0)
        times = [event.time for event in queries.events(self.store, row.study_id) if event.kind == TIME_SET]
        if row.until is None or max(times, default=0.0) <= decided:
            share = member.granted - self._granted_before(member)
            ends.set_end(self.store, row.study_id, ends.now(self.store) + share * 3600)

    def _granted_before(self, member: MemberRow) -> float:
        decisions = self.row.decisions
        return float(decisions[-1].facts["spent"].get(member.name, 0.0)) if decisions else 0.0

    def _worked_off(self, member: MemberRow, row: StudyRow) -> None:
        """Workers run until the study has ended; those that die are replaced. Raises MemberError and StoppedError."""
        fruitless = 0
        while row.status is not Status.FINISHED:
            before = row.done
            processes: Sequence[Process] = () if row.workers else self.hands.start(member.study)
            try:
                row = self._watched(member, processes)
            except KeyboardInterrupt:
                self._end(processes)
                raise
            if row.status is Status.FINISHED:
                break
            codes = [process.poll() for process in processes]
            if row.status is Status.STOPPED and not any(code is not None and code < 0 for code in codes):
                raise StoppedError(
                    f"The study {row.name} of the campaign {self.name} was stopped.", "The same command goes on."
                )
            if row.status is Status.FAILED and row.ending:
                raise MemberError(row.ending)
            fruitless = 0 if row.done > before else fruitless + 1
            if fruitless >= ATTEMPTS:
                raise MemberError(f"{ATTEMPTS} workers ended without a finished trial.", f"kdnas logs {row.name}")
        if row.done and row.failed >= row.done:
            trials = queries.trial_rows(self.store, row.study_id)
            last = [trial.error for trial in trials if trial.state == TrialState.FAILED][-1]
            raise MemberError(f"All {row.done} of its trials failed, the last one so: {last}")

    def _watched(self, member: MemberRow, processes: Sequence[Process]) -> StudyRow:
        """Until the workers have ended: these, or those of a coordinator that is gone."""
        while True:
            over = all(process.poll() is not None for process in processes)
            row = queries.study_row(self.store, member.study)
            self.beat(f"{member.name}: {row.counted_words}")
            if over and (processes or not row.workers):
                return row
            for process in processes:
                if process.poll() is None:
                    ended_in_order(process, LOOK_S)
                    break
            else:
                time.sleep(LOOK_S)

    def _end(self, processes: Sequence[Process]) -> None:
        running = [process for process in processes if process.poll() is None]
        if running:
            self.tell("Ending the running trial …")
        for process in running:
            process.terminate()
        try:
            late = [process for process in running if not ended_in_order(process, PATIENCE_S)]
        except KeyboardInterrupt:
            late = running
        for process in late:
            process.kill()

    # ------------------------------------------------------------------------ scores and decisions

    def _scored(self, member: MemberRow, stage: int) -> None:
        """Its best feasible students have a score of this round; one of an earlier round is taken over."""
        for trial in best_feasible(self.store, member.study, self.spec.scoring.students):
            known = [s for s in self.row.scores if s.member == member.name and s.trial == trial.number]
            if any(score.stage == stage for score in known):
                continue
            if known:
                campaigns.add_score(
                    self.store, self.campaign_id, stage, member.place, trial.number, known[-1].score,
                    {**known[-1].facts, "of_stage": known[-1].stage},
                )  # fmt: skip
                continue
            began = time.monotonic()
            try:
                score, facts = self.hands.score(self.row, member.name, trial.number, self.beat)
            except KdnasError as error:
                self._fail(member, str(error))
                return
            told = {
                **facts,
                "seed": self.spec.seed,
                "candidate": dict(trial.row.candidate),
                "latency_ms": trial.row.latency_ms,
                "parameters": trial.row.parameters,
                "seconds": round(time.monotonic() - began, 1),
            }
            campaigns.add_score(self.store, self.campaign_id, stage, member.place, trial.number, score, told)
            self.tell(f"{member.name}: trial {trial.number} has {score:.4f} on the task")

    def _decide(self, stage: int, alive: Sequence[MemberRow]) -> None:
        row = self.row
        members = [member for member in row.members if member.stage == stage]
        scores: dict[str, float | None] = {
            m.name: max((s.score for s in row.scores if s.stage == stage and s.member == m.name), default=None)
            for m in members
        }
        failed = [m.name for m in members if m.state is MemberState.FAILED]
        decision = halving.decide(scores, failed)
        if not decision.going:
            raise KdnasError(f"No member of the campaign {self.name} can go on.", "See it with --status.")
        facts = {
            "rule": halving.RULE,
            "constants": {"exploring": halving.EXPLORING, "rounds": self.rounds, "budget": row.budget},
            "seed": self.spec.seed,
            "scoring": self.spec.scoring.model_dump(),
            "scores": scores,
            "going": list(decision.going),
            "out": dict(decision.out),
            "spent": {m.name: self._spent(m) for m in row.members},
            **_episode(row),
        }
        campaigns.decide(self.store, self.campaign_id, stage, facts, decision.going, decision.out)
        verb = "goes" if len(decision.going) == 1 else "go"
        self.tell(f"after round {stage + 1}: {', '.join(decision.going)} {verb} on" + _why(decision.out))


def _require_own(row: StudyRow, spec: StudySpec, name: str) -> None:
    """Raises StoppedError where somebody else began a study under a member's name."""
    differing = differences(from_values(row.spec), spec)
    if differing:
        raise StoppedError(
            f"The study {row.name} is not what the campaign {name} would begin: {next(iter(differing))} differs.",
            "Rename or delete that study, and the same command goes on.",
        )


def _without_end(budget: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in budget.items() if name not in ("trials", "hours", "until")}


def _episode(row: CampaignRow) -> dict[str, Any]:
    """The best student of all, of each member, and the best before this round, as they are now."""

    def told(score: Any) -> dict[str, Any]:
        return {"member": score.member, "trial": score.trial, "score": score.score, "stage": score.stage}

    best: dict[str, dict[str, Any]] = {}
    for score in row.scores:
        if score.member not in best or score.score > best[score.member]["score"]:
            best[score.member] = told(score)
    top = max(best.values(), key=lambda one: float(one["score"]), default=None)
    before = row.decisions[-1].facts.get("global_best") if row.decisions else None
    return {"best": best, "global_best": top, "previous_best": before}


def best_feasible(store: Store, study: str, count: int) -> list[Scored]:
    """The best trials of a study that keep its constraints, by its own reward; fewer where there are no more."""
    row = queries.find_study(store, study)
    if row is None:
        return []
    scored = rank_of(row, queries.trial_rows(store, row.study_id))
    return [one for one in scored if one.rank is not None and not one.infeasible][:count]


def _names(members: Sequence[MemberRow]) -> str:
    return ", ".join(member.name for member in members)


def _why(out: Mapping[str, str]) -> str:
    return "".join(f"; {name} is out ({why})" for name, why in out.items())
