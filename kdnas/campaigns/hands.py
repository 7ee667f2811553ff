"""Who does a campaign's work on this machine: ordinary workers, real scores, the real ending. Decides nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from kdnas.campaigns.contract import Hands, Process
from kdnas.campaigns.ending import finish
from kdnas.campaigns.scoring import member_spec, round_score
from kdnas.search import launch


def here(storage: str, workers: int = 1) -> Hands:
    """With so many workers for the member whose turn it is."""

    def start(study: str) -> Sequence[Process]:
        return [started.process for started in launch.start_workers(storage, study, workers)]

    score, end = functools.partial(round_score, storage), functools.partial(finish, storage)
    return Hands(member_spec, start, score, end)
