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
from typing import Any

from aslfast import adapter, reward, roles
from aslfast.advantage import advantages
from aslfast.core import Group, Reward, Role, StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.loop import Attempt, Loop, PoolQuestion
from aslfast.trajectory import Record


async def run_round(loop: Loop) -> None:
    """The three phases, in the order of the paper. A role that does not learn only does what the next one needs."""
    config = loop.config
    await _phase(
        loop, "generator", config.generator.steps, generator_tasks(loop), question_group, config.generator.learn
    )
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
        for g in groups:
            records += [Record(t, r, loop.round, step) for t, r in zip(g.trajectories, g.rewards, strict=True)]
            records += [Record(t, None, loop.round, step) for t in g.lost]
    loop.run.trajectories(loop.round, role, records)
    if learn and records:
        with loop.run.writing():
            adapter.save_adapter(loop.learner.model, role, loop.run.adapter_folder(role), loop.learner.version[role])


async def _step(
    loop: Loop, role: Role, tasks: Sequence[Task], group_of: GroupOf, learn: bool
) -> tuple[list[Group], dict[str, Any]]:
    """Gathers a group for each task, then learns from them; also a line of metrics."""
    started = time.perf_counter()
    loop.next_step()
    groups = list(await asyncio.gather(*(group_of(loop, task) for task in tasks)))
    if not any(group.trajectories for group in groups):
        raise UserError(f"round {loop.round}: the search tool failed all of a {role} step; see that data.index answers")
    stats = learn_from(loop, role, groups) if learn else dict(NO_UPDATE)
    seconds = time.perf_counter() - started
    timing = {"tokens_per_s": loop.sampled_tokens / seconds, "seconds": seconds}
    return groups, {**summary(groups), **stats, **loop.counts(), **timing}


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
    tokens, an unbiased estimate of the mean per-token entropy in nats. Lost trajectories are counted and left out."""
    trajectories = [t for g in groups for t in g.trajectories]
    rewards = [r for g in groups for r in g.rewards]
    return {
        "reward": sum(r.total for r in rewards) / len(rewards),
        "reward_parts": {name: sum(r.parts[name] for r in rewards) / len(rewards) for name in rewards[0].parts},
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
            loop.pool.setdefault(reward.normalize(question.question), question)
    return Group.of([(t, r) for t, _, r in grown])


async def grow(loop: Loop, task: Task, number: int) -> tuple[Trajectory, PoolQuestion | None, Reward | None]:
    """A question, the policy's attempts at it with a verdict each, and the judge's view of its reference answer.

    No reward where the tool failed the question, all of its attempts or all of its self checks.
    """
    config, prompts = loop.config.generator, loop.config.model.prompts
    written = await loop.sample(task, number)
    if written.stop is StopReason.TOOL_FAILED:
        return written, None, None
    valid = written.output is not None and roles.valid_question(written.output)
    if not valid or written.output is None or written.output_answer is None:
        return (
            written,
            None,
            reward.generator_reward(written, False, (), (), config.accept_share, loop.config.format_weight),
        )
    ask = roles.policy_task(f"{task.id}-{number}-p", written.output, prompts, (written.output_answer,), task.hops)
    check = roles.grm_task(f"{task.id}-{number}-c", written.output, written.output_answer, prompts)
    attempts, checks = await asyncio.gather(
        asyncio.gather(*(outcome(loop, ask, i) for i in range(config.attempts))),
        asyncio.gather(*(loop.sample(check, i) for i in range(config.self_checks))),
    )
    verdicts, self_verdicts = [v[0] for _, v in attempts if v], opinions(checks)
    if not verdicts or (checks and not self_verdicts):
        return written, None, None
    given = reward.generator_reward(
        written, True, verdicts, self_verdicts, config.accept_share, loop.config.format_weight
    )
    if not reward.accepted(self_verdicts, config.accept_share):
        return written, None, given
    tried = tuple(Attempt(answer, v or ()) for answer, v in attempts if answer is not None)
    return written, PoolQuestion(f"q{task.id}-{number}", written.output, written.output_answer, task.hops, tried), given


Verdicts = tuple[str | None, ...]


async def outcome(loop: Loop, task: Task, number: int) -> tuple[str | None, Verdicts | None]:
    """An attempt's answer and verdict. Its tokens, which nothing is learnt from, are let go at once."""
    trajectory, verdicts = await attempt(loop, task, number, 1)
    return trajectory.output, verdicts


async def attempt(loop: Loop, task: Task, number: int, verdicts: int) -> tuple[Trajectory, Verdicts | None]:
    """One policy trajectory and the judge's verdicts on its answer, None each where there is no answer.

    None in their place where the tool failed the attempt or all of its judges.
    """
    trajectory = await loop.sample(task, number)
    if trajectory.output is None:
        return trajectory, None if trajectory.stop is StopReason.TOOL_FAILED else (None,) * verdicts
    judge, same = (
        roles.grm_task(f"{task.id}{number}-v", task.question, answer, loop.config.model.prompts)
        for answer in (trajectory.output, reward.normalize(trajectory.output))
    )
    given = opinions(await loop.judging.verdicts(judge, same.prompt, verdicts))
    return trajectory, given if given or not verdicts else None


def opinions(judged: Sequence[Trajectory]) -> tuple[str | None, ...]:
    """The verdicts of those whom the tool did not fail; None for one that came to no verdict by its own fault."""
    return tuple(t.output for t in judged if t.stop is not StopReason.TOOL_FAILED)


# --- GRM -------------------------------------------------------------------------------------------------------


def verification_tasks(loop: Loop) -> list[list[Task]]:
    """This round's labelled attempts, as many right as wrong for each question, in random order, repeated as needed."""
    config, rng = loop.config.grm, loop.rng("grm")
    tasks: list[Task] = []
    for question in loop.pool.values():
        if question.id.startswith(f"qg{loop.round}-"):
            labels = labelled_attempts(question, config.label)
            right, wrong = ([a for a, label in labels.items() if label == wanted] for wanted in ("correct", "wrong"))
            for i in range(min(len(right), len(wrong))):
                for answer, label in ((right[i], "correct"), (wrong[i], "wrong")):
                    task_id = f"v{loop.round}-{question.id}-{i}{label[0]}"
                    tasks.append(
                        roles.grm_task(
                            task_id, question.question, answer, loop.config.model.prompts, label, question.hops
                        )
                    )
    rng.shuffle(tasks)
    return _cycled(tasks, config.steps, config.tasks)


def labelled_attempts(question: PoolQuestion, source: str) -> dict[str, str]:
    """Distinct answers -> label, without human help.

    reference: the generator's answer is right, any other wrong.
    majority:  the majority of the judge's own verdicts on that answer over all attempts that gave it; ties are dropped.
    consensus: as reference, but only where the policy's most frequent answer is the reference: two roles that reached
               it independently; other questions give no labels.
    """
    answers = [a.answer for a in question.attempts]
    if source == "majority":
        votes = {
            answer: [v for a in question.attempts if a.answer == answer for v in a.verdicts if v] for answer in answers
        }
        right = {answer: sum(v == "correct" for v in given) / len(given) for answer, given in votes.items() if given}
        return {answer: "correct" if p > 0.5 else "wrong" for answer, p in right.items() if p != 0.5}
    if source == "consensus" and not _agreed(answers, question.reference):
        return {}
    return {answer: "correct" if reward.exact_match(answer, [question.reference]) else "wrong" for answer in answers}


def _agreed(answers: Sequence[str], reference: str) -> bool:
    counts: dict[str, int] = {}
    for answer in map(reward.normalize, answers):
        counts[answer] = counts.get(answer, 0) + 1
    own = counts.pop(reward.normalize(reference), 0)
    return own >= 2 and own > max(counts.values(), default=0)


async def verdict_group(loop: Loop, task: Task) -> Group:
    judged = await asyncio.gather(*(loop.sample(task, i) for i in range(loop.config.grm.samples)))
    label, weight = task.references[0], loop.config.format_weight
    return Group.of([(t, reward.grm_reward(t, label, weight) if opinions([t]) else None) for t in judged])


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
    return Group.of([(t, None if v is None else reward.policy_reward(t, reward.majority(v), weight)) for t, v in tried])


def _chunks(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    return [list(tasks[i : i + size]) for i in range(0, len(tasks), size)]


def _cycled(tasks: Sequence[Task], steps: int, size: int) -> list[list[Task]]:
    """`steps` steps of `size` tasks each, going round where there are fewer; none where there are none."""
    if not tasks:
        return []
    laps = -(-steps * size // len(tasks))
    again = [replace(task, id=f"{task.id}.{lap}") for lap in range(laps) for task in tasks]  # a new id: new samples
    return _chunks(again[: steps * size], size)
