"""The work of a run, counted from its configuration: for `--dry-run` and for the time left."""

from __future__ import annotations

from collections.abc import Sequence

from aslfast.config import RunConfig
from aslfast.config.roles import ROLES, tools_of
from aslfast.config.schema import SFT
from aslfast.prompts.tool_calls import SEARCH, searchers_in
from aslfast.rollout.search_tool import MAX_QUERIES
from aslfast.systems.phase_plan import PhasePlan
from aslfast.systems.registry import plan_of
from aslfast.trainer.lab_datasets import eval_counts


def evaluation_trajectories(config: RunConfig) -> int:
    """Return the most trajectories of one evaluation, the judge probe included."""
    judged = config.policy.verdicts_per_answer and "grm" in config.roles
    probe = min(config.monitor.judge_probe, config.data.eval_count) if judged else 0
    others = zip(("grm", "generator"), eval_counts(config), strict=True) if _in_lab(config) else ()
    return config.data.eval_count + probe + sum(count for role, count in others if role in config.roles)


def _in_lab(config: RunConfig) -> bool:
    return config.data.lab and not config.environment


def round_trajectories(config: RunConfig) -> int:
    """Return the most trajectories of the phases of one round; of those of one's own the least."""
    return sum(phase.steps * phase.per_step for phase in plan_of(config))


def total_trajectories(config: RunConfig) -> int:
    """Return the most trajectories of the whole run, of phases of one's own the least; round 0 only evaluates."""
    return config.rounds * round_trajectories(config) + (config.rounds + 1) * evaluation_trajectories(config)


def _source(config: RunConfig) -> str:
    return "the lab's two worlds" if config.data.lab else f"index {config.data.index or '(data.index is not set)'}"


def _sft(config: RunConfig) -> str:
    s = config.sft
    rows = s.data or "demonstrations made from the labelled questions and the index"
    steps = f"{s.epochs} epoch(s) in steps of {s.batch_size} rows at {s.learning_rate:g}"
    return f"once, at the start of round 1: supervised fine-tuning of the {s.role} on {rows}, {steps}"


def schedules(config: RunConfig) -> list[str]:
    """Return what varies over the run, a line each."""
    return [f"schedule of {key}: {schedule}" for key, schedule in config.schedule.items()]


def _own_roles(config: RunConfig) -> list[str]:
    """Return the line about the roles of a recipe that has some of its own: who plays with which adapter."""
    if config.roles.keys() <= set(ROLES):
        return []
    adapters = {name: config.adapter_of(name) for name in config.roles}
    others = {name: f" (the adapter of {adapter})" if adapter else " (the base)" for name, adapter in adapters.items()}
    return ["roles: " + ", ".join(name if adapters[name] == name else name + others[name] for name in config.roles)]


def _searched_by_model(config: RunConfig) -> list[str]:
    """Return a line for each role whose searches another role answers: how many turns of that one, at most."""
    lines = []
    for name, role in config.roles.items():
        for searcher in searchers_in(tools_of(config.roles, name, config.tools)):
            answered = (role.max_turns or config.sampler.max_turns) - 1  # nothing reads what the last turn asks for
            most = answered * config.tool.max_calls * MAX_QUERIES
            lines.append(f"searches of the role {name}: at most {most} turns of {searcher} a trajectory, not counted")
    return lines


def _bound(phases: Sequence[PhasePlan]) -> str:
    return "at least" if any(phase.at_least for phase in phases) else "at most"


def describe(config: RunConfig) -> str:
    """Return the plan as a person reads it."""
    s, m, n_eval = config.sampler, config.model, evaluation_trajectories(config)
    source = config.environment or _source(config)
    lines = [
        f"model {m.path or '(model.path is not set)'} in {m.dtype}, prompts {m.prompts}, from {source}",
        f"{len(config.adapters)} LoRA adapters of rank {config.lora.rank}, AdamW at {config.learner.learning_rate:g}, "
        f"seed {config.seed}",
        *_own_roles(config),
        f"a trajectory: at most {s.max_turns} turns of {s.max_new_tokens} tokens, {s.max_context} in all, "
        f"temperature {s.temperature:g}, top {config.tool.top_k} passages",
        *([f"tools: {', '.join(config.tools)}"] if config.tools != (SEARCH,) else ()),
        *schedules(config),
        *(f"tools of the role {name}: {', '.join(role.tools)}" for name, role in config.roles.items() if role.tools),
        *_searched_by_model(config),
        *([_sft(config)] if SFT in config.phases else ()),
        f"{config.rounds} rounds, each:",
    ]
    phases = plan_of(config)
    for phase in phases:
        learning = f"{phase.steps} optimizer steps" if phase.learn else f"{phase.steps} steps, without learning"
        most = f"{_bound([phase])} {phase.per_step:,} trajectories a step"
        lines.append(f"  {phase.name}: {learning} of {phase.what} ({most})")
    bound = _bound(phases)
    lines.append(f"  {bound} {round_trajectories(config):,} trajectories a round to learn from")
    lines.append(f"evaluated {config.rounds + 1} times, the base first, with {n_eval:,} held-out trajectories each")
    lines.append(f"{bound} {total_trajectories(config):,} trajectories in the whole run")
    return "\n".join(lines)
