"""One round of Agentic Self-Learning: generator phase -> GRM phase -> policy phase -> measured against the truth.

After arXiv 2510.14253. Every phase is a few optimizer steps; a step gathers groups of trajectories on the one sampler,
without a barrier between roles (a question's attempts start when it is written, a verdict when its attempt is done),
then learns from them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aslfast import adapter, rewards, roles
from aslfast.advantage import advantages
from aslfast.config import RunConfig
from aslfast.core import Group, Reward, Role, Task, Trajectory
from aslfast.learner import Learner
from aslfast.rewards import Attempt, QuestionEvidence
from aslfast.rollout import Rollout, stable_seed
from aslfast.run_folder import RunFolder
from aslfast.trajectory import Record


@dataclass(frozen=True, slots=True)
class PoolQuestion:
    """A generated question that passed the gate, with the attempts that came with it."""

    id: str
    question: str
    reference: str
    hops: int
    attempts: tuple[Attempt, ...]


@dataclass
class Loop:
    """What every phase works with. `pool` grows over the rounds."""

    config: RunConfig
    rollout: Rollout
    learner: Learner
    run: RunFolder
    topics: Sequence[str]
    flush: Callable[[], None]  # the sampler's: after each optimizer step
    report: Callable[[dict[str, Any]], None]  # called with each line of metrics
    notice: Callable[[str], None] = lambda _: None  # called with what a person should know
    pool: dict[str, PoolQuestion] = field(default_factory=dict)  # by normalised question
    round: int = 0
    step: int = 0
    sampled_tokens: int = 0  # by all roles, attempts and verdicts too

    async def sample(self, task: Task, number: int) -> Trajectory:
        seed = stable_seed(self.config.seed, self.round, self.step)
        trajectory = await self.rollout.run(task, number, seed, task.role, self.learner.version[task.role])
        self.sampled_tokens += trajectory.n_sampled
        return trajectory

    def rng(self, phase: str) -> random.Random:
        return random.Random(stable_seed(self.config.seed, self.round, phase))


async def run_round(loop: Loop) -> None:
    """The three phases, in the order of the paper. A role that does not learn only does what the next one needs."""
    config = loop.config
    await _phase(
        loop, "generator", config.generator.steps, generator_tasks(loop), question_group, config.generator.learn
    )
    drop_near_duplicates(loop)
    await _phase(loop, "grm", config.grm.steps, verification_tasks(loop), verdict_group, config.grm.learn)
    await _phase(loop, "policy", config.policy.steps, policy_tasks(loop), answer_group, config.policy.learn)


GroupOf = Callable[[Loop, Task], Coroutine[Any, Any, Group]]


async def _phase(
    loop: Loop, role: Role, steps: int, tasks: Sequence[Sequence[Task]], group_of: GroupOf, learn: bool
) -> None:
    if steps and not tasks:
        loop.notice(f"round {loop.round}: the {role} phase is skipped, since no generated question gives it a task")
    records: list[Record] = []
    for step, step_tasks in enumerate(tasks[:steps], 1):
        groups, line = await _step(loop, role, step_tasks, group_of, learn)
        line = {"round": loop.round, "phase": role, "step": step, **line}
        loop.run.append("metrics.jsonl", line)
        loop.report(line)
        records += [
            Record(t, r, loop.round, step) for g in groups for t, r in zip(g.trajectories, g.rewards, strict=True)
        ]
    loop.run.trajectories(loop.round, role, records)
    if learn and records:
        with loop.run.writing():
            adapter.save_adapter(loop.learner.model, role, loop.run.adapter_folder(role), loop.learner.version[role])


async def _step(
    loop: Loop, role: Role, tasks: Sequence[Task], group_of: GroupOf, learn: bool
) -> tuple[list[Group], dict[str, Any]]:
    """Gathers a group for each task, then learns from them; also a line of metrics."""
    started, sampled_before = time.perf_counter(), loop.sampled_tokens
    loop.step += 1
    groups = list(await asyncio.gather(*(group_of(loop, task) for task in tasks)))
    stats = learn_from(loop, role, groups) if learn else dict(NO_UPDATE)
    seconds, sampled = time.perf_counter() - started, loop.sampled_tokens - sampled_before
    timing = {"sampled_tokens": sampled, "tokens_per_s": sampled / seconds, "seconds": seconds}
    return groups, {**summary(groups), **stats, **timing}


NO_UPDATE = {"kl": 0.0, "grad_norm": 0.0, "loss": 0.0}


def learn_from(loop: Loop, role: Role, groups: Sequence[Group]) -> dict[str, float]:
    """One optimizer step, unless every group is flat."""
    trajectories, advantage = advantages(groups, loop.config.advantage)
    if not trajectories:
        return dict(NO_UPDATE)
    stats = loop.learner.step(role, trajectories, advantage)
    loop.flush()
    return asdict(stats)


def summary(groups: Sequence[Group]) -> dict[str, Any]:
    """Reward and its parts (means over the role's trajectories) and its entropy: minus the mean log-prob of the sampled
    tokens, an unbiased estimate of the mean per-token entropy in nats."""
    trajectories = [t for g in groups for t in g.trajectories]
    given = [r for g in groups for r in g.rewards]
    return {
        "reward": sum(r.total for r in given) / len(given),
        "reward_parts": {name: sum(r.parts[name] for r in given) / len(given) for name in given[0].parts},
        "entropy": -sum(sum(t.logprobs) for t in trajectories) / max(1, sum(t.n_sampled for t in trajectories)),
        "finished": sum(t.output is not None for t in trajectories) / len(trajectories),
        "flat_groups": sum(len({r.total for r in g.rewards}) == 1 for g in groups) / len(groups),
        "trajectories": len(trajectories),
    }  # fmt: skip


# --- generator -------------------------------------------------------------------------------------------------


def generator_tasks(loop: Loop) -> list[list[Task]]:
    """Topics drawn without repeats; the numbers of hops in turn, so that the pool holds all of them."""
    config, rng = loop.config.generator, loop.rng("generator")
    count = config.steps * config.tasks
    topics = [
        topic for _ in range(count // len(loop.topics) + 1) for topic in rng.sample(list(loop.topics), len(loop.topics))
    ][:count]
    prompts = loop.config.model.prompts
    tasks = [
        roles.generator_task(f"g{loop.round}-{i}", topic, config.hops[i % len(config.hops)], prompts)
        for i, topic in enumerate(topics)
    ]
    return _chunks(tasks, config.tasks)


async def question_group(loop: Loop, task: Task) -> Group:
    """Several questions for one task. Those that pass the gate enter the pool."""
    grown = await asyncio.gather(*(grow(loop, task, i) for i in range(loop.config.generator.samples)))
    for _, question, _ in grown:
        if question is not None:
            loop.pool.setdefault(rewards.normalize(question.question), question)
    batch = tuple(evidence.question for _, _, evidence in grown)
    return Group(
        tuple(t for t, _, _ in grown), tuple(_generator_reward(loop, t, replace(e, batch=batch)) for t, _, e in grown)
    )


def _generator_reward(loop: Loop, written: Trajectory, evidence: QuestionEvidence) -> Reward:
    return rewards.generator_reward(written, evidence, loop.config.format_weight, loop.config.generator.reward)


def drop_near_duplicates(loop: Loop) -> None:
    """Of questions in nearly the same words the pool keeps the one that came first."""
    kept = set(rewards.distinct_questions([q.question for q in loop.pool.values()]))
    loop.pool = {key: question for i, (key, question) in enumerate(loop.pool.items()) if i in kept}


async def grow(loop: Loop, task: Task, number: int) -> tuple[Trajectory, PoolQuestion | None, QuestionEvidence]:
    """A question, the policy's attempts at it with a verdict each, and the judge's view of its reference answer."""
    config, prompts = loop.config.generator, loop.config.model.prompts
    written = await loop.sample(task, number)
    evidence = rewards.question_evidence(written)
    if not evidence.valid or written.output is None or written.output_answer is None:
        return written, None, evidence
    ask = roles.policy_task(f"{task.id}-{number}-p", written.output, prompts, (written.output_answer,), task.hops)
    check = judge_task(loop, f"{task.id}-{number}-c", written.output, written.output_answer, written.output_answer)
    attempts, checks = await asyncio.gather(
        asyncio.gather(*(attempt(loop, ask, i, 1) for i in range(config.attempts))),
        asyncio.gather(*(loop.sample(check, i) for i in range(config.self_checks))),
    )
    verdicts, self_verdicts = [v[0] for _, v in attempts], opinions(loop, checks)
    evidence = rewards.question_evidence(written, verdicts, self_verdicts, config.accept_share)
    if not evidence.accepted:
        return written, None, evidence
    tried = tuple(Attempt(t.output, v) for t, v in attempts if t.output is not None)
    question = PoolQuestion(f"q{task.id}-{number}", written.output, written.output_answer, task.hops, tried)
    return written, question, evidence


async def attempt(loop: Loop, task: Task, number: int, verdicts: int) -> tuple[Trajectory, tuple[str | None, ...]]:
    """One policy trajectory and the judge's verdicts on its answer; none where there is no answer."""
    trajectory = await loop.sample(task, number)
    if trajectory.output is None:
        return trajectory, (None,) * verdicts
    reference = next(iter(task.references), "")
    judge = judge_task(loop, f"{task.id}{number}-v", task.question, trajectory.output, reference)
    judged = await asyncio.gather(*(loop.sample(judge, i) for i in range(verdicts)))
    return trajectory, opinions(loop, judged)


def opinions(loop: Loop, judged: Sequence[Trajectory]) -> tuple[str | None, ...]:
    return tuple(rewards.offered(t.output, loop.config.grm.variant) for t in judged)


def judge_task(
    loop: Loop, task_id: str, question: str, answer: str, reference: str, label: str | None = None, hops: int = 0
) -> Task:
    config = loop.config
    return roles.grm_task(task_id, question, answer, config.model.prompts, label, hops, config.grm.variant, reference)


# --- GRM -------------------------------------------------------------------------------------------------------


def verification_tasks(loop: Loop) -> list[list[Task]]:
    """This round's labelled attempts, as many right as wrong for each question, in random order, repeated as needed."""
    config, rng = loop.config.grm, loop.rng("grm")
    tasks: list[Task] = []
    for question in loop.pool.values():
        if question.id.startswith(f"qg{loop.round}-"):
            for i, (answer, label) in enumerate(rewards.balanced(labelled_attempts(question, config.label))):
                task_id = f"v{loop.round}-{question.id}-{i // 2}{label[0]}"
                tasks.append(
                    judge_task(loop, task_id, question.question, answer, question.reference, label, question.hops)
                )
    rng.shuffle(tasks)
    return _cycled(tasks, config.steps, config.tasks)


def labelled_attempts(question: PoolQuestion, source: str) -> dict[str, str]:
    """Distinct answers -> label, from one of the sources in rewards/labels.py."""
    return rewards.LABELS[source](question.attempts, question.reference)


async def verdict_group(loop: Loop, task: Task) -> Group:
    judged = await asyncio.gather(*(loop.sample(task, i) for i in range(loop.config.grm.samples)))
    label, weight, variant = task.references[0], loop.config.format_weight, loop.config.grm.variant
    return Group(tuple(judged), tuple(rewards.grm_reward(t, label, weight, variant) for t in judged))


# --- policy ----------------------------------------------------------------------------------------------------


def policy_tasks(loop: Loop) -> list[list[Task]]:
    """Questions of the pool, the numbers of hops in turn, the newest rounds first where there are more than needed."""
    config, rng = loop.config.policy, loop.rng("policy")
    newest = sorted(loop.pool.values(), key=lambda q: (not q.id.startswith(f"qg{loop.round}-"), rng.random()))
    by_hops: dict[int, list[PoolQuestion]] = {}
    for question in newest:
        by_hops.setdefault(question.hops, []).append(question)
    turns = max(map(len, by_hops.values()), default=0)
    chosen = [by_hops[hops][i % len(by_hops[hops])] for i in range(turns) for hops in sorted(by_hops)]
    tasks = [
        roles.policy_task(f"p{loop.round}-{i}-{q.id}", q.question, loop.config.model.prompts, (q.reference,), q.hops)
        for i, q in enumerate(chosen)
    ]
    return _cycled(tasks, config.steps, config.tasks)


async def answer_group(loop: Loop, task: Task) -> Group:
    config = loop.config.policy
    tried = await asyncio.gather(*(attempt(loop, task, i, config.verdicts) for i in range(config.samples)))
    weight = loop.config.format_weight
    given = tuple(rewards.policy_reward(t, verdicts, weight, config.reward) for t, verdicts in tried)
    return Group(tuple(t for t, _ in tried), given)


def _chunks(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    return [list(tasks[i : i + size]) for i in range(0, len(tasks), size)]


def _cycled(tasks: Sequence[Task], steps: int, size: int) -> list[list[Task]]:
    """`steps` steps of `size` tasks each, going round where there are fewer; none where there are none."""
    if not tasks:
        return []
    laps = -(-steps * size // len(tasks))
    again = [replace(task, id=f"{task.id}.{lap}") for lap in range(laps) for task in tasks]  # a new id: new samples
    return _chunks(again[: steps * size], size)
