"""Rewards of a user's own, right and wrong ones, that a recipe names by import path."""

import time


def brevity(evidence):
    return 1.0 / (1 + len(evidence.answer or ""))


def length_of_text(evidence):
    return {"right": float(evidence.answer in evidence.references), "searches": 0.1 * evidence.trajectory.tool_calls}


def parts(evidence):
    return {"short": 1.0 * (len(evidence.question) < 60), "passed": evidence.passed}


def no_arguments():
    return 0.0


def not_a_number(evidence):
    return float("nan")


def text(evidence):
    return "good"


def raises(evidence):
    raise KeyError("no such\nkey")


def forgets_that_none_may_answer(evidence):
    return 1.0 / (1 + len(evidence.answer))


def exits(evidence):
    raise SystemExit("bye")


def raises_later(evidence):
    if evidence.answer not in ("Oslo", None):
        raise RuntimeError("only Oslo")
    return 1.0


def hangs(evidence):
    time.sleep(3600)


async def coroutine(evidence):
    return 1.0


def short_questions(evidence):
    return len(evidence.question) < 60


def first_is_right(attempts, reference):
    return {attempt.answer: "correct" if i == 0 else "wrong" for i, attempt in enumerate(attempts) if attempt.answer}


def half(verdict, label):
    return 0.5


def shouted(answers, own):
    return own.upper()


number = 3
