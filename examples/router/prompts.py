"""Prompts about the subjects that the stubs know, for trying the router out."""

from __future__ import annotations

import random
from typing import Final

from router.stubs import SUBJECTS

_REST: Final = ("please", "tell", "me", "what", "you", "think", "about", "this", "and", "why", "so")


def random_prompt(random_numbers: random.Random) -> str:
    """A dozen words, two of which give the subject away."""
    hints = SUBJECTS[random_numbers.choice(sorted(SUBJECTS))]
    words = random_numbers.sample(_REST, 10) + random_numbers.sample(hints, 2)
    random_numbers.shuffle(words)
    return " ".join(words)
