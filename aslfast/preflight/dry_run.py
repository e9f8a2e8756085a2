"""The work of a run, counted from its configuration: for `--dry-run` and for the time left."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aslfast.config import RunConfig
from aslfast.config.schema import SFT
from aslfast.core import SECOND_JUDGE, role_of
from aslfast.prompts.tool_calls import SEARCH
from aslfast.trainer.lab_datasets import eval_counts


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase of one round. per_step: most trajectories of one optimizer step, all roles together."""

    name: str
    steps: int
    per_step: int
    what: str


def phases(config: RunConfig) -> list[PhasePlan]:
    """Return the phases in the order of a round; two judges have one each."""
    by_role = {"generator": _generator(config), "grm": _grm(config), "policy": _policy(config)}
    planned = [by_role[role] for role in config.role_phases]
    for place, phase in reversed(list(enumerate(planned))):
        if phase.name == "grm" and config.grm.folds > 1:
            planned.insert(place + 1, replace(phase, name=SECOND_JUDGE))
    return planned


def _generator(config: RunConfig) -> PhasePlan:
    g, judgements = config.generator, min(1, config.policy.verdicts_per_answer)
    verdict = "a verdict on each" if judgements else f"rewarded by {config.policy.reward}"
    per_question = 1 + g.self_checks + (1 + judgements) * g.rollouts_per_question
    tasks = f"{g.prompts_per_step} tasks ({', then '.join(g.source)}) x {g.group_size} questions"
    what = f"{tasks}, each with {g.self_checks} self checks, {g.rollouts_per_question} attempts and {verdict}"
    return PhasePlan("generator", g.steps, g.prompts_per_step * g.group_size * per_question, what)


def _grm(config: RunConfig) -> PhasePlan:
    m, gold = config.grm, ""
    if m.gold_label_fraction:
        gold = f", {m.gold_label_fraction:.0%} of them from real questions from round {m.gold_label_from_round} on"
    what = f"{m.prompts_per_step} attempts x {m.group_size} verdicts, labels from {m.label}{gold}"
    return PhasePlan("grm", m.steps, m.prompts_per_step * m.group_size, what)


def _policy(config: RunConfig) -> PhasePlan:
    p = config.policy
    judged = f"{p.verdicts_per_answer} verdict(s) on each" if p.verdicts_per_answer else f"rewarded by {p.reward}"
    asked = "labelled questions" if p.question_source == "labelled" else "questions"
    what = f"{p.prompts_per_step} {asked} x {p.group_size} answers, {judged}"
    return PhasePlan("policy", p.steps, p.prompts_per_step * p.group_size * (1 + p.verdicts_per_answer), what)


def evaluation_trajectories(config: RunConfig) -> int:
    """Return the most trajectories of one evaluation, the judge probe included."""
    probe = min(config.monitor.judge_probe, config.data.eval_count) if config.policy.verdicts_per_answer else 0
    others = sum(eval_counts(config)) if config.data.lab and not config.environment else 0
    return config.data.eval_count + probe + others


def round_trajectories(config: RunConfig) -> int:
    """Return the most trajectories of the phases of one round."""
    return sum(phase.steps * phase.per_step for phase in phases(config))


def total_trajectories(config: RunConfig) -> int:
    """Return the most trajectories of the whole run; round 0 only evaluates."""
    return config.rounds * round_trajectories(config) + (config.rounds + 1) * evaluation_trajectories(config)


def _source(config: RunConfig) -> str:
    return "the lab's two worlds" if config.data.lab else f"index {config.data.index or '(data.index is not set)'}"


def _sft(config: RunConfig) -> str:
    s = config.sft
    rows = s.data or "demonstrations made from the labelled questions and the index"
    steps = f"{s.epochs} epoch(s) in steps of {s.batch_size} rows at {s.learning_rate:g}"
    return f"once, at the start of round 1: supervised fine-tuning of the {s.role} on {rows}, {steps}"


def describe(config: RunConfig) -> str:
    """Return the plan as a person reads it."""
    s, m, n_eval = config.sampler, config.model, evaluation_trajectories(config)
    source = config.environment or _source(config)
    lines = [
        f"model {m.path or '(model.path is not set)'} in {m.dtype}, prompts {m.prompts}, from {source}",
        f"{len(config.adapters)} LoRA adapters of rank {config.lora.rank}, AdamW at {config.learner.learning_rate:g}, "
        f"seed {config.seed}",
        f"a trajectory: at most {s.max_turns} turns of {s.max_new_tokens} tokens, {s.max_context} in all, "
        f"temperature {s.temperature:g}, top {config.tool.top_k} passages",
        *([f"tools: {', '.join(config.tools)}"] if config.tools != (SEARCH,) else ()),
        *([_sft(config)] if SFT in config.phases else ()),
        f"{config.rounds} rounds, each:",
    ]
    for phase in phases(config):
        role = getattr(config, role_of(phase.name))
        learning = f"{phase.steps} optimizer steps" if role.learn else f"{phase.steps} steps, without learning"
        lines.append(f"  {phase.name}: {learning} of {phase.what} (at most {phase.per_step:,} trajectories a step)")
    lines.append(f"  at most {round_trajectories(config):,} trajectories a round to learn from")
    lines.append(f"evaluated {config.rounds + 1} times, the base first, with {n_eval:,} held-out trajectories each")
    lines.append(f"at most {total_trajectories(config):,} trajectories in the whole run")
    return "\n".join(lines)
