"""Who learns for an engine, and with what; checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from sona_shm.errors import ConfigError
from sona_shm.loops.drain import LearnerOptions
from sona_shm.loops.reward import RewardFunction

LearnerKind = Literal["inline", "thread", "process"]


def learner_options(
    learner: LearnerKind | None,
    journal: str | os.PathLike[str] | None,
    reward: RewardFunction | None,
) -> LearnerOptions:
    """The options of a learner.

    Raises
    ------
    ConfigError
        For an impossible learner, or options without a learner.
    """
    if learner is not None and learner not in get_args(LearnerKind):
        raise ConfigError(
            f"learner is {learner!r}, expected None, {', '.join(map(repr, get_args(LearnerKind)))}"
        )
    if learner is None and (journal is not None or reward is not None):
        raise ConfigError(
            "journal and reward belong to a learner, and learner is None; give them to the "
            "process that learns, such as: sona learner NAME --journal DIR"
        )
    if reward is not None and not callable(reward):
        raise ConfigError(f"reward is {reward!r}, expected a function of an Outcome")
    return LearnerOptions(None if journal is None else Path(journal), reward)
