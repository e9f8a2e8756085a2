"""What a configuration will do, counted before it is done: for `--dry-run` and for the time left."""

from __future__ import annotations

from dataclasses import dataclass

from aslfast.config import RunConfig
from aslfast.environment import GENERATOR_EVALS, GRM_EVALS


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase of one round. `per_step`: the most trajectories of one optimizer step, all roles together."""

    role: str
    steps: int
    per_step: int
    what: str


def phases(config: RunConfig) -> list[PhasePlan]:
    g, m, p = config.generator, config.grm, config.policy
    asked = g.tasks * g.samples
    return [
        PhasePlan(
            "generator", g.steps, asked * (1 + g.self_checks + 2 * g.attempts),
            f"{g.tasks} topics x {g.samples} questions, each with {g.self_checks} self checks, {g.attempts} attempts "
            "and a verdict on each",
        ),
        PhasePlan(
            "grm", m.steps, m.tasks * m.samples,
            f"{m.tasks} attempts x {m.samples} verdicts, labels from {m.label}",
        ),
        PhasePlan(
            "policy", p.steps, p.tasks * p.samples * (1 + p.verdicts),
            f"{p.tasks} questions x {p.samples} answers, {p.verdicts} verdict(s) on each",
        ),
    ]  # fmt: skip


def evaluation_trajectories(config: RunConfig) -> int:
    """Most trajectories of one measurement, the monitor's probe included."""
    probe = min(config.monitor.probe, config.data.eval_count)
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
        f"three LoRA adapters of rank {config.lora.rank}, AdamW at {learning_rate:g}, seed {config.seed}",
        f"a trajectory: at most {s.max_turns} turns of {s.max_new_tokens} tokens, {s.max_context} in all, "
        f"temperature {s.temperature:g}, top {config.tool.top_k} passages",
        f"{config.rounds} rounds, each:",
    ]
    for phase in phases(config):
        role = getattr(config, phase.role)
        learning = f"{phase.steps} optimizer steps" if role.learn else f"{phase.steps} steps, without learning"
        lines.append(f"  {phase.role}: {learning} of {phase.what} (at most {phase.per_step:,} trajectories a step)")
    lines.append(f"  at most {round_trajectories(config):,} trajectories a round to learn from")
    lines.append(f"measured {config.rounds + 1} times, the base first, with {n_eval:,} held-out trajectories each")
    lines.append(f"at most {total_trajectories(config):,} trajectories in the whole run")
    return "\n".join(lines)
