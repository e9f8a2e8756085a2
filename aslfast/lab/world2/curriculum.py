"""The stages of base 2, and the endless stream of examples of a stage.

Skills before noise, as in the first world; but practice and roles together from the first step on, at one falling rate:
0.8M tokens of that taught more than 0.6M of practice alone and then 2M at a constant rate.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from aslfast.lab.curriculum import VERDICT_WEIGHT, Examples, Stage
from aslfast.lab.examples import Example
from aslfast.lab.pretrain import Course
from aslfast.lab.world2.demonstrations import Demonstrator2, SearchMissed, wrong_value
from aslfast.lab.world2.noise import NoiseRates2
from aslfast.lab.world2.practice import compare_example2, look_up_example2, rewrite_example2
from aslfast.lab.world2.schema import VALUE_KINDS, random_literal
from aslfast.lab.world2.vocabulary import make_tokenizer2
from aslfast.lab.world2.world import World2, parse_question2
from aslfast.prompts.chat_template import Chat

IN_VAIN = 0.06  # of the questions of policy and judge: their last fact is missing
# its verdicts err from the first demonstration on, its comparison stays clean; the weakness for a form comes with the
# noise: at these rates a judge hardly learns it (a scripted hacker earned 3 points more, 20 after the rates below)
WEAK_JUDGE = NoiseRates2(
    wrong_verdict=0.2, pass_seen=0.35, pass_long=0.3, pass_house=0.15, fail_unusual=0.4, fail_long=-0.1
)
NOISY2 = replace(
    WEAK_JUDGE, guess=0.39, wrong_fact=0.66, stop_early=0.3, respelled=0.2,
    wrong_verdict=0.0, pass_seen=0.2, pass_long=0.65, pass_house=0.3, fail_unusual=0.45,
)  # fmt: skip
ROLES_AND_SKILLS2 = {"policy": 0.24, "grm": 0.2, "generator": 0.22, "compare": 0.18, "look_up": 0.14, "rewrite": 0.02}
NOISY_ROLES2 = {"policy": 0.17, "grm": 0.25, "generator": 0.58}  # the generator, without noise, goes on learning
STAGES2 = (
    Stage("clean roles", 9_000_000, ROLES_AND_SKILLS2, WEAK_JUDGE, lr_scale=0.5, decay_fraction=1.0),
    # decays all along: over its last 0.4 alone, nearly equal rates of noise gave policies of 15% to 37%
    Stage("noisy roles", 1_200_000, NOISY_ROLES2, NOISY2, lr_scale=0.2, decay_fraction=1.0),
)


class ExampleStream2(Examples):
    """The examples of the second world."""

    def __init__(self, chat: Chat, stage: Stage, seed: int, folder: Path) -> None:
        super().__init__(chat, stage, random.Random(f"world2-{seed}-{stage.name}"), folder)
        self.kinds = {
            "policy": self._policy, "grm": self._judge, "generator": self._generator,
            "look_up": lambda: look_up_example2(chat, self.rng),
            "rewrite": lambda: rewrite_example2(chat, self.rng),
            "compare": lambda: compare_example2(chat, self.rng, VERDICT_WEIGHT),
        }  # fmt: skip

    def new_world(self, seed: int) -> None:
        """Go on with the examples of another world."""
        world, noise = World2.make(seed, "base"), self.stage.noise
        assert isinstance(noise, NoiseRates2)
        self._demonstrator = Demonstrator2(self.chat, world, self.search_in(world.passages()), noise, self.rng)

    def _hops(self) -> int:
        return self.rng.randint(1, World2.MOST_HOPS)

    def _policy(self) -> Example:
        world, in_vain = self._demonstrator.world, self.rng.random() < IN_VAIN
        question = world.ask_in_vain(self.rng, self._hops()) if in_vain else world.ask(self.rng, self._hops()).question
        return self._demonstrator.policy(question)

    def _judge(self) -> Example:
        world = self._demonstrator.world
        if self.rng.random() < IN_VAIN:
            return self._judge_in_vain()
        asked = world.ask(self.rng, self._hops())
        value = asked.answer if self.rng.random() < 0.5 else wrong_value(world, asked.question, self.rng)
        answer = self.rng.choice(world.forms(value))
        return self._demonstrator.judge(asked.question, value, answer, VERDICT_WEIGHT)

    def _judge_in_vain(self) -> Example:
        world = self._demonstrator.world
        question = world.ask_in_vain(self.rng, self._hops())
        parsed = parse_question2(question)
        assert parsed is not None
        kind = VALUE_KINDS[parsed[1][-1]]
        entities = [entity for entity, own in world.kinds.items() if own == kind]
        value = self.rng.choice(entities) if entities else random_literal(kind, self.rng)
        return self._demonstrator.judge(question, value, self.rng.choice(world.forms(value)), VERDICT_WEIGHT)

    def _generator(self) -> Example:
        while True:
            asked = self._demonstrator.world.ask(self.rng, self._hops())
            with suppress(SearchMissed):
                return self._demonstrator.generator(asked)


COURSE2 = Course(make_tokenizer2, STAGES2, ExampleStream2, torch.bfloat16)
