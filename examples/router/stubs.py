"""Models that answer without any network, each well about some subjects only.

How good an answer is depends on the subject of the prompt and on nothing that the router sees,
so that there is something to learn.
"""

from __future__ import annotations

import zlib
from typing import Final

SUBJECTS: Final[dict[str, tuple[str, ...]]] = {
    "code": ("python", "function", "compile", "bug", "class"),
    "mathematics": ("integral", "prove", "equation", "matrix", "prime"),
    "chat": ("hello", "weather", "recipe", "birthday", "movie"),
}


def stub_answer(model: str, prompt: str) -> str:
    """The text of an answer."""
    return f"This is {model} on: {prompt[:80]}"


def stub_quality(good_at: str, prompt: str) -> float:
    """How good the answer of ``stub://{good_at}`` to a prompt is, in [0, 1].

    0.9 about its subjects, 0.3 about others, and 0.6 where the subject is not clear; give or take
    0.1, by the prompt.
    """
    words = set(prompt.lower().split())
    subjects = {subject for subject, hints in SUBJECTS.items() if words & set(hints)}
    quality = 0.6
    if subjects:
        quality = 0.9 if subjects & set(good_at.split(",")) else 0.3
    return quality + (zlib.crc32(f"{good_at} {prompt}".encode()) % 201 - 100) / 1000
