"""The request and the answer of all benchmarks; their size is that of their JSON."""

from __future__ import annotations

import json

import attrs

__all__ = ["Answer", "Question", "answer_json", "answer_of", "question_of"]


@attrs.frozen
class Question:
    user_id: str
    token: str


@attrs.frozen
class Answer:
    valid: bool
    message: str


def question_of(size: int) -> Question:
    """A request whose JSON has ``size`` bytes."""
    question = Question("user123", "")
    return attrs.evolve(question, token="t" * (size - len(_compact(question))))


def answer_of(size: int) -> Answer:
    """An answer whose JSON has ``size`` bytes."""
    answer = Answer(valid=True, message="")
    return attrs.evolve(answer, message="m" * (size - len(_compact(answer))))


def answer_json(size: int) -> bytes:
    """The ``data`` field of a server's answer."""
    return _compact(answer_of(size)).encode()


def _compact(value: Question | Answer) -> str:
    return json.dumps(attrs.asdict(value), separators=(",", ":"))
