"""What the three phases come to, before they are run. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aslfast.config import RunConfig
from aslfast.prompts.builder import SECOND_JUDGE
from aslfast.systems.phase_plan import PhasePlan


def asl_plan(config: RunConfig, phase: str) -> list[PhasePlan]:
    """Return what a phase comes to; two judges have one each."""
    planned = _PLANS[phase](config)
    second = phase == "grm" and config.grm.folds > 1
    return [planned, replace(planned, name=SECOND_JUDGE)] if second else [planned]


def _generator(config: RunConfig) -> PhasePlan:
    g, judgements = config.generator, min(1, config.policy.verdicts_per_answer)
    verdict = "a verdict on each" if judgements else f"rewarded by {config.policy.reward}"
    per_question = 1 + g.self_checks + (1 + judgements) * g.rollouts_per_question
    tasks = f"{g.prompts_per_step} tasks ({', then '.join(g.source)}) x {g.group_size} questions"
    what = f"{tasks}, each with {g.self_checks} self checks, {g.rollouts_per_question} attempts and {verdict}"
    return PhasePlan("generator", g.steps, g.prompts_per_step * g.group_size * per_question, what, g.learn)


def _grm(config: RunConfig) -> PhasePlan:
    m, gold = config.grm, ""
    if m.gold_label_fraction:
        gold = f", {m.gold_label_fraction:.0%} of them from real questions from round {m.gold_label_from_round} on"
    what = f"{m.prompts_per_step} attempts x {m.group_size} verdicts, labels from {m.label}{gold}"
    return PhasePlan("grm", m.steps, m.prompts_per_step * m.group_size, what, m.learn)


def _policy(config: RunConfig) -> PhasePlan:
    p = config.policy
    judged = f"{p.verdicts_per_answer} verdict(s) on each" if p.verdicts_per_answer else f"rewarded by {p.reward}"
    asked = "labelled questions" if p.question_source == "labelled" else "questions"
    what = f"{p.prompts_per_step} {asked} x {p.group_size} answers, {judged}"
    return PhasePlan("policy", p.steps, p.prompts_per_step * p.group_size * (1 + p.verdicts_per_answer), what, p.learn)


_PLANS: dict[str, Callable[[RunConfig], PhasePlan]] = {"generator": _generator, "grm": _grm, "policy": _policy}
