"""1000 trajectories on the real engine, which is lost three times, with a tool that times out and calls that are no
calls: every one is accounted for, none twice, and memory stays flat.

A loss costs the time of a restart and nothing else, so what the trajectories came to must not depend on it; that a
turn survives the loss token for token is tests/test_sampler_sglang_faults.py's part.
"""

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aslfast.config import load_recipe
from aslfast.core import Question, StopReason
from aslfast.lab.world import World
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.rollout.multi_turn import Rollout, gather_bounded
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.search_tool import SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from tests.support.tiny_models import lab_sampler, lab_with_adapters

COUNT, SAMPLES = 250, 4  # questions, samples of each
SLOW_SHARE, DEADLINE_S, SLEEP_S = 0.05, 3.0, 6.0
MALFORMED_SHARE = 0.05
FAULTS = {200: ("scheduler", signal.SIGKILL), 450: ("host", signal.SIGKILL), 700: ("scheduler", signal.SIGSTOP)}
PIDS = {"host": 0, "scheduler": 1}
GROWTH_MB = 60  # of the trainer's resident memory over the last 800 trajectories


@dataclass
class Unreliable:
    """The index, some of whose batches answer only after the pool's deadline."""

    index: object
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    lock: threading.Lock = field(default_factory=threading.Lock)
    slow: int = 0
    calls: int = 0

    def search(self, queries, k):
        with self.lock:
            late = self.rng.random() < SLOW_SHARE
            self.slow, self.calls = self.slow + late, self.calls + 1
        if late:
            time.sleep(SLEEP_S)
        return self.index.search(queries, k)

    def passages(self, ids):
        return self.index.passages(ids)


@dataclass
class Spoiling:
    """The chat; some sampled turns are read as if they broke off inside their call. What was sampled stays as it is."""

    chat: Chat
    rng: random.Random = field(default_factory=lambda: random.Random(6))
    spoiled: int = 0

    def text(self, token_ids):
        text = self.chat.text(token_ids)
        if "<tool_call>" in text and self.rng.random() < MALFORMED_SHARE:
            self.spoiled += 1
            return text.replace('"arguments"', '"argument')
        return text

    def __getattr__(self, name):
        return getattr(self.chat, name)


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture(scope="module")
def played(lab_index):
    """(trajectories, tool, chat, sampler's restarts, resident memory by trajectories that had ended)."""
    config = load_recipe("tiny")
    model, tokenizer = lab_with_adapters()
    sampler = lab_sampler(model, tokenizer, engine_timeout_s=8.0, engine_restarts=3)
    tool, chat, memory = Unreliable(lab_index), Spoiling(Chat(tokenizer)), {}
    pool = ToolExecutor(SearchTool(tool, config.tool.top_k), threaded=True, deadline_s=DEADLINE_S)
    limits = Limits(config.sampler.max_turns, config.sampler.max_new_tokens, config.sampler.max_context)
    rollout = Rollout(sampler, pool, chat, limits, config.sampler.temperature)
    questions = World.make(0, "train").questions(random.Random(0), COUNT)
    prompts = PromptBuilder("compact")
    asked = [Question(f"q{i}", q.question, (q.answer,), q.hops) for i, q in enumerate(questions)]
    tasks = [prompts.policy(question.id, question) for question in asked]

    async def one(task, number):
        trajectory = await rollout.run(task, number, 1, "policy")
        memory[len(memory) + 1] = resident_mb()
        if fault := FAULTS.get(len(memory)):
            os.kill(sampler.running_engine().pids[PIDS[fault[0]]], fault[1])
        return number, trajectory

    jobs = [lambda task=task, i=i: one(task, i) for task in tasks for i in range(SAMPLES)]
    with closing(sampler):
        sampler.start()
        trajectories = asyncio.run(gather_bounded(jobs, 96))
        yield trajectories, tool, chat, sampler, memory


def test_every_trajectory_is_accounted_for_once(played):
    trajectories, _, _, sampler, _ = played
    names = Counter((trajectory.task.id, number) for number, trajectory in trajectories)
    assert len(names) == COUNT * SAMPLES == len(trajectories) and set(names.values()) == {1}
    assert sampler.restarts == len(FAULTS)
    assert sampler._running == {}  # no request is left behind


def test_every_stop_has_its_reason(played):
    """Calls that break off are the agent's, what the tool lost is not, and the rest ended as it does without faults."""
    trajectories, tool, chat, _, _ = played
    stops = Counter(trajectory.stop for _, trajectory in trajectories)
    assert tool.slow > 0.02 * tool.calls and stops[StopReason.TOOL_FAILED] >= tool.slow > 0
    assert chat.spoiled > 20 and stops[StopReason.MALFORMED_CALL] >= chat.spoiled
    assert stops[StopReason.FINISHED] > 600
    for _, trajectory in trajectories:
        lost = trajectory.stop is StopReason.TOOL_FAILED
        assert trajectory.turns[-1].kind == "sampled" and (trajectory.output is None or not lost)
        assert trajectory.n_sampled == sum(t.end - t.start for t in trajectory.turns if t.kind == "sampled")


def test_memory_is_flat(played):
    memory = played[-1]
    early, late = (sorted(memory[i] for i in among)[50] for among in (range(150, 250), range(900, 1000)))
    assert late - early < GROWTH_MB
