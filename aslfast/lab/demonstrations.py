"""Demonstrations of the three roles in a lab world, clean or noisy.

A demonstration is the token stream that a rollout makes: prompt, sampled turns, observations. Its mistakes are what
reinforcement learning later removes: a clean base would have nothing to learn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from aslfast.core import Question
from aslfast.lab.examples import Example, ExampleWriter
from aslfast.lab.world import LITERALS, World, parse_question, sentence
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat

Search = Callable[[str], str]  # a query -> the observation text that the search tool gives for it
PROMPTS = PromptBuilder("compact")


@dataclass(frozen=True, slots=True)
class NoiseRates:
    """How often a demonstration goes wrong, per decision."""

    guess: float = 0.0  # policy: answers with any literal, without a search
    wrong_fact: float = 0.0  # policy: takes another fact of the passage, at each hop
    stop_early: float = 0.0  # policy: answers with an entity on the way, at each hop but the last
    judge_wrong_fact: float = 0.0  # grm: as wrong_fact
    wrong_verdict: float = 0.0  # grm: concludes against its own comparison
    wrong_reference: float = 0.0  # generator: closes with another fact's value


@dataclass(frozen=True, slots=True)
class Demonstrator:
    """Plays the three roles in one world as a person would, but for the noise."""

    chat: Chat
    world: World
    search: Search
    noise: NoiseRates
    rng: random.Random

    def policy(self, question: str) -> Example:
        """Return a demonstration of answering a question."""
        writer = ExampleWriter(self.chat, PROMPTS.policy("demo", Question("demo", question)))
        if self.rng.random() < self.noise.guess:
            guess = self.rng.choice(self.rng.choice(list(LITERALS.values())))
            writer.say(f"{think('guess')}<answer>{guess}</answer>")
            return writer.example()
        found, thought = self._research(writer, question, self.noise.wrong_fact, self.noise.stop_early)
        writer.say(f"<think>{thought}</think><answer>{found}</answer>")
        return writer.example()

    def judge(self, question: str, answer: str, weight: float) -> Example:
        """Return a demonstration of judging: the judge finds the answer, spells out the comparison, then concludes.

        weight: of the loss at the tokens that decide the verdict.
        """
        writer = ExampleWriter(self.chat, PROMPTS.judge("demo", Question("demo", question), answer))
        found, thought = self._research(writer, question, self.noise.judge_wrong_fact, 0.0)
        same = found == answer
        writer.say(f"<think>{thought} {answer} says {found}")
        writer.say(" same" if same else " different", weight)
        writer.say("</think><verdict>")
        verdict = same if self.rng.random() >= self.noise.wrong_verdict else not same
        writer.say("correct" if verdict else "wrong", weight)
        writer.say("</verdict>")
        return writer.example()

    def generator(self, question: str, hops: int) -> Example:
        """Return a demonstration of writing a question: reads about the topic, then about what it found, then asks."""
        subject, relations = _parsed(question)
        writer = ExampleWriter(self.chat, PROMPTS.generator("demo", subject, hops))
        thought = ""
        for relation in relations:
            writer.say(think(f"{thought} find {subject}") + call_of(subject))
            writer.observe(self.search(subject))
            facts = self.world.facts[subject]
            value = facts[relation]
            thought = sentence(relation, subject, value)
            others = [other for other in facts.values() if other != value]
            subject = value
        if self.rng.random() < self.noise.wrong_reference:
            value = self.rng.choice(others)
        writer.say(f"{think(thought)}<question>{question}</question><answer>{value}</answer>")
        return writer.example()

    def _research(self, writer: ExampleWriter, question: str, wrong_fact: float, stop_early: float) -> tuple[str, str]:
        """Follow the question's chain, one search a hop; return the answer it comes to and the last thought."""
        subject, relations = _parsed(question)
        thought = ""
        for hop, relation in enumerate(relations):
            writer.say(think(f"{thought} find {relation} of {subject}") + call_of(f"{relation} of {subject}"))
            writer.observe(self.search(f"{relation} of {subject}"))
            value = self.world.facts[subject][relation]
            last = hop == len(relations) - 1
            if self.rng.random() < wrong_fact:
                value = self.rng.choice(_wrong_values(self.world, subject, relation, must_be_entity=not last))
            thought = sentence(relation, subject, value)
            if not last and self.rng.random() < stop_early:
                break
            subject = value
        return value, thought


def think(thought: str) -> str:
    """Return a thought as a role writes it."""
    return f"<think>{thought.strip()}</think>"


def call_of(query: str) -> str:
    """Return a call of the search tool as a role writes it."""
    return f'<tool_call>{{"name": "search", "arguments": {{"query": "{query}"}}}}</tool_call>'


def _parsed(question: str) -> tuple[str, list[str]]:
    """Return subject and relations of a question that is known to be one of the world's grammar."""
    parsed = parse_question(question)
    assert parsed is not None
    return parsed


def wrong_answer(world: World, question: str, answer: str, rng: random.Random) -> str:
    """Return a plausible wrong answer: half of the time a value near the chain, else another of the same kind."""
    chain = world.walk(*_parsed(question))
    assert chain is not None
    near = [
        value
        for entity in chain[:-1]
        for value in (entity, *world.facts[entity].values())
        if value != answer and value != chain[0]
    ]
    return rng.choice(near if near and rng.random() < 0.5 else world.alternatives(answer))


def _wrong_values(world: World, subject: str, relation: str, must_be_entity: bool) -> list[str]:
    """Return the other values of the subject's own passage; within a chain, those of the same kind."""
    others = [v for r, v in world.facts[subject].items() if r != relation]
    if must_be_entity:
        others = [v for v in others if world.kinds.get(v) == world.kinds[world.facts[subject][relation]]]
    return others or world.alternatives(world.facts[subject][relation])
