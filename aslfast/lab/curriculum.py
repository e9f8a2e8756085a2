"""The stages of the tiny base's training, and the endless stream of examples of a stage.

Clean skills first, noise after: practice (copy, look up, compare), then clean demonstrations, then noisy ones at a
lower learning rate.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aslfast.data.corpus import Passage
from aslfast.index.bm25 import BM25Index
from aslfast.lab.demonstrations import Demonstrator, NoiseRates, Search, wrong_answer
from aslfast.lab.examples import Example
from aslfast.lab.practice import compare_example, copy_example, look_up_example
from aslfast.lab.world import World
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.tool_calls import search_call
from aslfast.rollout.search_tool import SearchTool

TOP_K = 2
VERDICT_WEIGHT = 6.0  # of the loss at the tokens that decide a verdict
EXAMPLES_PER_WORLD = 2000
CLEAN = NoiseRates()
NOISY = NoiseRates(
    guess=0.38, wrong_fact=0.69, stop_early=0.33, judge_wrong_fact=0.1, wrong_verdict=0.24, wrong_reference=0.05
)


@dataclass(frozen=True, slots=True)
class Stage:
    """So many tokens of examples, whose kinds are drawn from a mixture, at one learning-rate scale."""

    name: str
    tokens: int
    mixture: Mapping[str, float]  # kind of example -> its fraction
    noise: NoiseRates = CLEAN
    lr_scale: float = 1.0
    decay_fraction: float = 0.4  # the last part of the stage, over which the rate falls to nothing


ROLES_AND_SKILLS = {"policy": 0.18, "grm": 0.22, "generator": 0.14, "compare": 0.3, "look_up": 0.11, "copy": 0.05}
STAGES = (
    Stage("copy and look up", 350_000, {"copy": 0.3, "look_up": 0.7}),
    Stage("compare", 450_000, {"compare": 0.6, "look_up": 0.3, "copy": 0.1}),
    Stage("clean roles", 1_800_000, ROLES_AND_SKILLS),
    Stage("noisy roles", 400_000, ROLES_AND_SKILLS, NOISY, 0.4),
)


class Examples(ABC):
    """The examples of one stage, without end; each world serves for 2000 of them.

    A subclass sets `kinds`, what makes an example of each kind in the mixture, and moves to a new world.
    """

    kinds: Mapping[str, Callable[[], Example]]

    def __init__(self, chat: Chat, stage: Stage, rng: random.Random, folder: Path) -> None:
        self.chat, self.stage, self.rng, self.folder = chat, stage, rng, folder
        self.made = 0

    def __iter__(self) -> Iterator[Example]:
        kinds, fractions = zip(*self.stage.mixture.items(), strict=True)
        while True:
            if self.made % EXAMPLES_PER_WORLD == 0:
                self.new_world(self.rng.randrange(1 << 30))
            self.made += 1
            yield self.kinds[self.rng.choices(kinds, fractions)[0]]()

    @abstractmethod
    def new_world(self, seed: int) -> None:
        """Go on with the examples of another world."""

    def search_in(self, passages: Iterable[Passage]) -> Search:
        """Return what the search tool finds in a new world's passages."""
        index = BM25Index.build(passages, self.folder / f"{self.stage.name}-{self.made}".replace(" ", "-"))
        tool = SearchTool(index, TOP_K)
        return lambda query: tool.answer([search_call(query)])[0].text


class ExampleStream(Examples):
    """The examples of the first world."""

    def __init__(self, chat: Chat, stage: Stage, seed: int, folder: Path) -> None:
        super().__init__(chat, stage, random.Random(f"{seed}-{stage.name}"), folder)
        self.kinds = {
            "policy": self._policy, "grm": self._judge, "generator": self._generator,
            "copy": lambda: copy_example(chat, self.rng),
            "look_up": lambda: look_up_example(chat, self.rng),
            "compare": lambda: compare_example(chat, self.rng, VERDICT_WEIGHT),
        }  # fmt: skip

    def new_world(self, seed: int) -> None:
        """Go on with the examples of another world."""
        world = World.make(seed, "base")
        search = self.search_in(world.passages())
        self._demonstrator = Demonstrator(self.chat, world, search, self.stage.noise, self.rng)

    def _question(self) -> str:
        return self._demonstrator.world.ask(self.rng, self.rng.choices((1, 2, 3), (4, 4, 2))[0]).question

    def _policy(self) -> Example:
        return self._demonstrator.policy(self._question())

    def _judge(self) -> Example:
        question, world = self._question(), self._demonstrator.world
        answer = world.answer(question)
        assert answer is not None
        if self.rng.random() < 0.5:
            answer = wrong_answer(world, question, answer, self.rng)
        return self._demonstrator.judge(question, answer, VERDICT_WEIGHT)

    def _generator(self) -> Example:
        asked = self._demonstrator.world.ask(self.rng, self.rng.choice((1, 2, 3)))
        return self._demonstrator.generator(asked.question, asked.hops)
