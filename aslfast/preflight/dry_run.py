"""What a configuration will do, counted before it is done: for `--dry-run` and for the time left."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aslfast.config.load import RunConfig
from aslfast.core import SECOND_JUDGE, role_of
from aslfast.trainer.datasets import GENERATOR_EVALS, GRM_EVALS


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase of one round. `per_step`: the most trajectories of one optimizer step, all roles together."""

    name: str
    steps: int
    per_step: int
    what: str


def phases(config: RunConfig) -> list[PhasePlan]:
    """In the order of a round; two judges have one each."""
    by_role = {"generator": _generator(config), "grm": _grm(config), "policy": _policy(config)}
    planned = [by_role[role] for role in config.phases]
    for place, phase in reversed(list(enumerate(planned))):
        if phase.name == "grm" and config.grm.folds > 1:
            planned.insert(place + 1, replace(phase, name=SECOND_JUDGE))
    return planned


def _generator(config: RunConfig) -> PhasePlan:
    g, judgements = config.generator, min(1, config.policy.verdicts)
    verdict = "a verdict on each" if judgements else f"measured by {config.policy.reward}"
    return PhasePlan(
        "generator", g.steps, g.tasks * g.samples * (1 + g.self_checks + (1 + judgements) * g.attempts),
        f"{g.tasks} tasks ({', then '.join(g.source)}) x {g.samples} questions, each with {g.self_checks} self checks, "
        f"{g.attempts} attempts and {verdict}",
    )  # fmt: skip


def _grm(config: RunConfig) -> PhasePlan:
    m, real = config.grm, ""
    if m.real_share:
        real = f", {m.real_share:.0%} of them from real questions from round {m.real_from} on"
    what = f"{m.tasks} attempts x {m.samples} verdicts, labels from {m.label}{real}"
    return PhasePlan("grm", m.steps, m.tasks * m.samples, what)


def _policy(config: RunConfig) -> PhasePlan:
    p = config.policy
    judged = f"{p.verdicts} verdict(s) on each" if p.verdicts else f"measured by {p.reward}"
    asked = "labelled questions" if p.questions == "labelled" else "questions"
    what = f"{p.tasks} {asked} x {p.samples} answers, {judged}"
    return PhasePlan("policy", p.steps, p.tasks * p.samples * (1 + p.verdicts), what)


def evaluation_trajectories(config: RunConfig) -> int:
    """Most trajectories of one measurement, the monitor's probe included."""
    probe = min(config.monitor.probe, config.data.eval_count) if config.policy.verdicts else 0
    return config.data.eval_count + probe + (GRM_EVALS + GENERATOR_EVALS if config.data.lab else 0)


def round_trajectories(config: RunConfig) -> int:
    return sum(phase.steps * phase.per_step for phase in phases(config))


def total_trajectories(config: RunConfig) -> int:
    """Most trajectories of the whole run; round 0 only measures."""
    return config.rounds * round_trajectories(config) + (config.rounds + 1) * evaluation_trajectories(config)


def describe(config: RunConfig) -> str:
    """The plan as a person reads it."""
    s, m, learning_rate, n_eval = (
        config.sampler,
        config.model,
        config.learner.learning_rate,
        evaluation_trajectories(config),
    )
    source = "the lab's two worlds" if config.data.lab else f"index {config.data.index or '(data.index is not set)'}"
    lines = [
        f"model {m.path or '(model.path is not set)'} in {m.dtype}, prompts {m.prompts}, from {source}",
        f"{len(config.adapters)} LoRA adapters of rank {config.lora.rank}, AdamW at {learning_rate:g}, "
        f"seed {config.seed}",
        f"a trajectory: at most {s.max_turns} turns of {s.max_new_tokens} tokens, {s.max_context} in all, "
        f"temperature {s.temperature:g}, top {config.tool.top_k} passages",
        f"{config.rounds} rounds, each:",
    ]
    for phase in phases(config):
        role = getattr(config, role_of(phase.name))
        learning = f"{phase.steps} optimizer steps" if role.learn else f"{phase.steps} steps, without learning"
        lines.append(f"  {phase.name}: {learning} of {phase.what} (at most {phase.per_step:,} trajectories a step)")
    lines.append(f"  at most {round_trajectories(config):,} trajectories a round to learn from")
    lines.append(f"measured {config.rounds + 1} times, the base first, with {n_eval:,} held-out trajectories each")
    lines.append(f"at most {total_trajectories(config):,} trajectories in the whole run")
    return "\n".join(lines)
