"""One round of Agentic Self-Learning: generator phase -> GRM phase -> policy phase -> measured against the truth.

After arXiv 2510.14253. Every phase is a few optimizer steps; a step gathers groups of trajectories on the one sampler,
without a barrier between roles (a question's attempts start when it is written, a verdict when its attempt is done),
then learns from them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeAlias

from aslfast import commits, rewards, roles, sharing
from aslfast.advantage import advantages
from aslfast.config import GeneratorConfig, GrmConfig, PolicyConfig
from aslfast.core import Group, Reward, Role, StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.loop import Loop
from aslfast.loop_state import PoolQuestion
from aslfast.rewards import Attempt, QuestionEvidence
from aslfast.trajectory import Record


async def run_round(loop: Loop) -> None:
    """The three phases, in the order of the paper. A role that does not learn only does what the next one needs."""
    config = loop.config
    await _phase(loop, "generator", config.generator, generator_tasks, question_group)
    drop_near_duplicates(loop)
    await _phase(loop, "grm", config.grm, verification_tasks, verdict_group)
    await _phase(loop, "policy", config.policy, policy_tasks, answer_group)


TasksOf = Callable[[Loop], Sequence[Sequence[Task]]]
GroupOf = Callable[[Loop, Task], Coroutine[Any, Any, Group]]


async def _phase(
    loop: Loop, role: Role, config: GeneratorConfig | GrmConfig | PolicyConfig, tasks_of: TasksOf, group_of: GroupOf
) -> None:
    """A phase, or what is left of one: after a resume it goes on at the step that was not committed."""
    if (loop.round, role) in loop.phases_done:
        return
    if not loop.phase_step:
        loop.tasks = tuple(map(tuple, tasks_of(loop)[: config.steps]))
        if config.steps and not loop.tasks:
            loop.notice(f"round {loop.round}: the {role} phase is skipped, since no generated question gives it a task")
    for tasks in loop.tasks[loop.phase_step :]:
        groups, line = await _step(loop, role, tasks, group_of, config.learn)
        loop.phase_step += 1
        line = {"round": loop.round, "phase": role, "step": loop.phase_step, **line}
        commits.step(loop, role, _records(loop, groups), line)
        loop.report(line)
    steps, loop.tasks, loop.phase_step = loop.phase_step, (), 0
    done: tuple[int, Role] = (loop.round, role)
    loop.phases_done += (done,)
    sharing.prove_alike(loop.learner, loop)
    commits.phase(loop, role, steps, config.learn)


def _records(loop: Loop, groups: Sequence[Group]) -> list[Record]:
    """Those that the tool lost have no reward."""
    graded = [pair for group in groups for pair in zip(group.trajectories, group.rewards, strict=True)]
    lost = [(trajectory, None) for group in groups for trajectory in group.lost]
    return [Record(trajectory, given, loop.round, loop.phase_step) for trajectory, given in graded + lost]


async def _step(
    loop: Loop, role: Role, tasks: Sequence[Task], group_of: GroupOf, learn: bool
) -> tuple[list[Group], dict[str, Any]]:
    """Gathers a group for each task, then learns from them; also a line of metrics."""
    started = time.perf_counter()
    loop.next_step()
    groups = await sharing.groups(loop, tasks, group_of)
    if not any(group.trajectories for group in groups):
        raise UserError(f"round {loop.round}: the search tool failed all of a {role} step; see that data.index answers")
    stats = learn_from(loop, role, groups) if learn else dict(NO_UPDATE)
    seconds = time.perf_counter() - started
    timing = {"tokens_per_s": loop.sampled_tokens / seconds, "seconds": seconds}
    return groups, {**summary(groups), **stats, **loop.counts(), **timing}


NO_UPDATE = {"kl": None, "grad_norm": 0.0, "loss": 0.0}


def learn_from(loop: Loop, role: Role, groups: Sequence[Group]) -> dict[str, Any]:
    """One optimizer step, unless there is nothing to learn from."""
    trajectories, advantage = advantages(groups, loop.config.advantage)
    if not trajectories:
        return dict(NO_UPDATE)
    stats = loop.learner.step(role, *sharing.own_part(loop.ranks, trajectories, advantage))
    if stats.grad_norm is None:
        which = ", ".join(stats.not_finite) or "no single trajectory, but their sum"
        loop.notice(f"round {loop.round}: a {role} step is skipped, its loss or gradient is not finite ({which})")
    loop.flush()
    return {**asdict(stats), **loop.prove()}


def summary(groups: Sequence[Group]) -> dict[str, Any]:
    """Reward and its parts (means over the role's trajectories) and its entropy: minus the mean log-prob of the sampled
    tokens, an unbiased estimate of the mean per-token entropy in nats. Lost trajectories are counted and left out."""
    trajectories = [t for g in groups for t in g.trajectories]
    given = [r for g in groups for r in g.rewards]
    return {
        "reward": sum(r.total for r in given) / len(given),
        "reward_parts": {name: sum(r.parts[name] for r in given) / len(given) for name in given[0].parts},
        "entropy": -sum(sum(t.logprobs) for t in trajectories) / max(1, sum(t.n_sampled for t in trajectories)),
        "finished": sum(t.output is not None for t in trajectories) / len(trajectories),
        "flat_groups": sum(len({r.total for r in g.rewards}) <= 1 for g in groups) / len(groups),
        "trajectories": len(trajectories),
        "lost": sum(len(g.lost) for g in groups),
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
            loop.offer(task, question)
    batch = tuple(evidence.question for _, _, evidence in grown if evidence)
    return Group.of([(t, _generator_reward(loop, t, e, batch) if e else None) for t, _, e in grown])


def _generator_reward(loop: Loop, written: Trajectory, evidence: QuestionEvidence, batch: tuple[str, ...]) -> Reward:
    evidence = replace(evidence, batch=batch)
    return rewards.generator_reward(written, evidence, loop.config.format_weight, loop.config.generator.reward)


def drop_near_duplicates(loop: Loop) -> None:
    """Of questions in nearly the same words the pool keeps the one that came first."""
    kept = set(rewards.distinct_questions([q.question for q in loop.pool.values()]))
    loop.pool = {key: question for i, (key, question) in enumerate(loop.pool.items()) if i in kept}


async def grow(loop: Loop, task: Task, number: int) -> tuple[Trajectory, PoolQuestion | None, QuestionEvidence | None]:
    """A question, the policy's attempts at it with a verdict each, and the judge's view of its reference answer.

    No evidence where the tool failed the question, all of its attempts or all of its self checks.
    """
    config, prompts = loop.config.generator, loop.config.model.prompts
    written = await loop.sample(task, number)
    if written.stop is StopReason.TOOL_FAILED:
        return written, None, None
    evidence = rewards.question_evidence(written)
    if not evidence.valid or written.output is None or written.output_answer is None:
        return written, None, evidence
    ask = roles.policy_task(f"{task.id}-{number}-p", written.output, prompts, (written.output_answer,), task.hops)
    check = loop.judging.task(f"{task.id}-{number}-c", written.output, written.output_answer, written.output_answer)
    attempts, checks = await asyncio.gather(
        asyncio.gather(*(outcome(loop, ask, i) for i in range(config.attempts))),
        asyncio.gather(*(loop.sample(check, i) for i in range(config.self_checks))),
    )
    verdicts, self_verdicts = [v[0] for _, v in attempts if v], loop.judging.opinions(checks)
    if not verdicts or (checks and not self_verdicts):
        return written, None, None
    evidence = rewards.question_evidence(written, verdicts, self_verdicts, config.accept_share)
    if not evidence.accepted:
        return written, None, evidence
    tried = tuple(Attempt(answer, v or ()) for answer, v in attempts if answer is not None)
    question = PoolQuestion(f"q{task.id}-{number}", written.output, written.output_answer, task.hops, tried)
    return written, question, evidence


Verdicts: TypeAlias = tuple[str | None, ...] | None  # None: lost by the tool


async def outcome(loop: Loop, task: Task, number: int) -> tuple[str | None, Verdicts]:
    """An attempt's answer and verdict. Its tokens, which nothing is learnt from, are let go at once."""
    trajectory, verdicts = await attempt(loop, task, number, 1)
    return trajectory.output, verdicts


async def attempt(loop: Loop, task: Task, number: int, verdicts: int) -> tuple[Trajectory, Verdicts]:
    """One policy trajectory and the judge's verdicts on its answer: None each where there is no answer; no tuple where
    the tool failed the attempt or all of its judges."""
    trajectory = await loop.sample(task, number)
    if trajectory.stop is StopReason.TOOL_FAILED:
        return trajectory, None
    if trajectory.output is None:
        return trajectory, (None,) * verdicts
    name, reference = f"{task.id}{number}-v", next(iter(task.references), "")
    given = await loop.judging.verdicts(name, task.question, trajectory.output, reference, verdicts)
    return trajectory, given if given or not verdicts else None


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
                    loop.judging.task(task_id, question.question, answer, question.reference, label, question.hops)
                )
    rng.shuffle(tasks)
    return _cycled(tasks, config.steps, config.tasks)


def labelled_attempts(question: PoolQuestion, source: str) -> dict[str, str]:
    """Distinct answers -> label, from one of the sources in rewards/labels.py."""
    return rewards.LABELS[source](question.attempts, question.reference)


async def verdict_group(loop: Loop, task: Task) -> Group:
    judged = await asyncio.gather(*(loop.sample(task, i) for i in range(loop.config.grm.samples)))
    label, weight, variant = task.references[0], loop.config.format_weight, loop.config.grm.variant
    given = [rewards.grm_reward(t, label, weight, variant) if loop.judging.opinions([t]) else None for t in judged]
    return Group.of(list(zip(judged, given, strict=True)))


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
    given = [None if v is None else rewards.policy_reward(t, v, weight, config.reward) for t, v in tried]
    return Group.of([(t, r) for (t, _), r in zip(tried, given, strict=True)])


def _chunks(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    return [list(tasks[i : i + size]) for i in range(0, len(tasks), size)]


def _cycled(tasks: Sequence[Task], steps: int, size: int) -> list[list[Task]]:
    """`steps` steps of `size` tasks each, going round where there are fewer; none where there are none."""
    if not tasks:
        return []
    laps = -(-steps * size // len(tasks))
    again = [replace(task, id=f"{task.id}.{lap}") for lap in range(laps) for task in tasks]  # a new id: new samples
    return _chunks(again[: steps * size], size)
