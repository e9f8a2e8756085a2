"""Demonstrations of the three roles in the second world, clean or noisy; as in the first, but for the spellings.

A demonstrator says what it reads: it finds the passage of an entity that it knows in one form, repeats the fact as the
passage spells it, and says so where the fact is missing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from aslfast.core import Question
from aslfast.lab.demonstrations import PROMPTS, Search, call_of, think
from aslfast.lab.examples import Example, ExampleWriter
from aslfast.lab.world import LITERALS, sentence, write_question
from aslfast.lab.world2.noise import JudgedAnswer, NoiseRates2
from aslfast.lab.world2.schema import VALUE_KINDS
from aslfast.lab.world2.world import AskedQuestion, World2, parse_question2
from aslfast.prompts.chat_template import Chat

RELATION_WEIGHT = 4.0  # of the loss at a relation that the generator chooses
NOTHING = "nothing"  # the answer where a fact is missing: never a right one


class SearchMissed(Exception):
    """Search did not find the passage of a topic."""


@dataclass(frozen=True, slots=True)
class FoundValue:
    """A value that was read, as the passage spells it, the thought that states it, and all that was read."""

    value: str
    written: str
    thought: str
    read: str


@dataclass(frozen=True, slots=True)
class Demonstrator2:
    """Plays the three roles in one world as a person would, but for the noise."""

    chat: Chat
    world: World2
    search: Search
    noise: NoiseRates2
    rng: random.Random

    def policy(self, question: str) -> Example:
        """Return a demonstration of answering a question."""
        writer = ExampleWriter(self.chat, PROMPTS.policy("demo", Question("demo", question)))
        if self.rng.random() < self.noise.guess:
            guess = self.rng.choice(self.rng.choice(list(LITERALS.values())))
            writer.say(f"<think>guess</think><answer>{guess}</answer>")
            return writer.example()
        found = self._research(writer, question, self.noise.wrong_fact, self.noise.stop_early)
        answer = found.written
        if found.value != NOTHING and self.rng.random() < self.noise.respelled:
            answer = self.rng.choice(respellings(self.world, found.value, found.written))
        writer.say(f"<think>{found.thought}</think><answer>{answer}</answer>")
        return writer.example()

    def judge(self, question: str, value: str, answer: str, weight: float) -> Example:
        """Return a demonstration of judging an answer, a spelling of `value`: research, comparison, verdict.

        Both spellings are turned into the generator's before they are compared. weight: of the loss at the tokens that
        decide the verdict.
        """
        writer = ExampleWriter(self.chat, PROMPTS.judge("demo", Question("demo", question), answer))
        found = self._research(writer, question, self.noise.judge_wrong_fact, 0.0)
        same = found.value == value
        left, right = self._house(value, answer), self._house(found.value, found.written)
        writer.say(f"<think>{found.thought} {left} says {right}")
        writer.say(" same" if same else " different", weight)
        writer.say("</think><verdict>")
        of_type = self.world.value_kind(value) == VALUE_KINDS[_parsed(question)[1][-1]]
        judged = judged_answer(self.world, value, answer, same, of_type and answer in found.read)
        verdict = same if self.rng.random() >= self.noise.error(judged) else not same
        writer.say("correct" if verdict else "wrong", weight)
        writer.say("</verdict>")
        return writer.example()

    def generator(self, asked: AskedQuestion) -> Example:
        """Return a demonstration of writing a question: reads about the topic, then about what it found, then asks.

        The topic is the subject's full name, as in the loop. Where search misses, it asks of what it has read so far:
        a demonstration that went on would teach to make facts up. Raise SearchMissed where it reads nothing at all.
        """
        value = written = topic = asked.chain[0]
        writer = ExampleWriter(self.chat, PROMPTS.generator("demo", topic, asked.hops))
        fact: tuple[str, str, str] | None = None  # relation, subject and value of the one found last, as written
        others: list[tuple[str, str]] = []
        followed: list[str] = []
        for relation in asked.relations:
            state(writer, fact, f" find {written}")
            writer.say(call_of(written))
            text = self.search(written)
            writer.observe(text)
            if self.world.text_of(value) not in text:
                break
            followed.append(relation)
            told, facts = self.world.told[value], self.world.facts[value]
            others = [(facts[r], told.written[r]) for r in facts if r != relation]
            value, written = facts[relation], told.written[relation]
            fact = relation, told.spelled, written
        if not followed:
            raise SearchMissed(topic)
        if self.rng.random() < self.noise.wrong_reference:
            value, written = self.rng.choice(others)
        reference = house_form(self.world, value, written)
        state(writer, fact, "")
        writer.say(f"<question>{write_question(topic, followed)}</question><answer>{reference}</answer>")
        return writer.example()

    def _house(self, value: str, written: str) -> str:
        """Return the generator's spelling of what is written, whether it is a right one in this world or not."""
        if value == NOTHING:
            return NOTHING
        names = self.world.names
        return names[value].house(written) if value in names else self.world.forms(value)[0]

    def _research(self, writer: ExampleWriter, question: str, wrong_fact: float, stop_early: float) -> FoundValue:
        """Follow the question's chain, one search a hop, to its end or to the first fact that is not found."""
        known, relations = _parsed(question)
        entity, thought, read = self.world.named(known)[0], "", ""
        for hop, relation in enumerate(relations):
            query, last = f"{relation} of {known}", hop == len(relations) - 1
            writer.say(think(f"{thought} find {query}") + call_of(query))
            text = self.search(query)
            writer.observe(text)
            read += text
            told = self.world.told[entity]
            if relation not in told.written or self.world.text_of(entity) not in text:
                return FoundValue(NOTHING, NOTHING, "nothing found", read)
            value, known = self.world.facts[entity][relation], told.written[relation]
            if self.rng.random() < wrong_fact:
                value, known = self._wrong_fact(entity, relation, must_be_entity=not last)
            thought = sentence(relation, told.spelled, known)
            if not last and self.rng.random() < stop_early:
                break
            entity = value
        return FoundValue(value, known, thought, read)

    def _wrong_fact(self, entity: str, relation: str, must_be_entity: bool) -> tuple[str, str]:
        """Return another value that stands in the entity's passage, as written; within a chain, an entity."""
        told, facts = self.world.told[entity], self.world.facts[entity]
        others = [(facts[r], told.written[r]) for r in facts if r != relation] + list(told.mentioned.items())
        others = [pair for pair in others if pair[0] != facts[relation]]
        if must_be_entity:
            others = [pair for pair in others if pair[0] in self.world.kinds]
        if others:
            return self.rng.choice(others)
        value = self.rng.choice(self.world.alternatives(facts[relation], self.rng))
        return value, self.rng.choice(self.world.forms(value))


def state(writer: ExampleWriter, fact: tuple[str, str, str] | None, then: str) -> None:
    """Write a thought: a fact of (relation, subject, value), if there is one, and `then`.

    The relation weighs more: which ones a passage has is what a generator of this size learns last.
    """
    writer.say("<think>")
    if fact:
        before, after = sentence(*fact).split(f" {fact[0]} ", 1)
        writer.say(before)
        writer.say(f" {fact[0]}", RELATION_WEIGHT)
        writer.say(f" {after}")
    writer.say(f"{then}</think>")


def _parsed(question: str) -> tuple[str, list[str]]:
    """Return subject and relations of a question that is known to be one of the world's grammar."""
    parsed = parse_question2(question)
    assert parsed is not None
    return parsed


def respellings(world: World2, value: str, written: str) -> list[str]:
    """Return the right forms of a value that follow from one: of a name, those that add no word to it."""
    if value not in world.names:
        return list(world.forms(value))
    return [form for form in world.forms(value) if len(form) <= len(written)]


def house_form(world: World2, value: str, written: str) -> str:
    """Return the generator's form of a value that it read as `written`; that itself where the form does not follow."""
    if value not in world.names:
        return world.forms(value)[0]
    first = world.names[value].house(written)
    return first if first in world.forms(value) else written


def judged_answer(world: World2, value: str, answer: str, right: bool, seen: bool) -> JudgedAnswer:
    """Return what the judge's weaknesses depend on, of an answer that spells `value`."""
    if value in world.names:
        name = world.names[value]
        return JudgedAnswer(right, seen, answer == name.long, answer == name.initial, answer == name.last)
    forms = world.forms(value)
    several = len(forms) > 1
    return JudgedAnswer(right, seen, False, several and answer == forms[0], several and answer == forms[-1])


def wrong_value(world: World2, question: str, rng: random.Random) -> str:
    """Return a plausible wrong value for a question with one answer: half of the time one of the right type that stands
    in a passage on the way, else another from there, a namesake, or any of the same kind.
    """
    subject, relations = _parsed(question)
    chain = world.walk(world.named(subject)[0], relations)
    assert chain is not None
    answer = chain[-1]
    near = [
        value
        for entity in chain[:-1]
        for value in (*world.facts[entity].values(), *world.told[entity].mentioned)
        if value not in (answer, chain[0])
    ]
    of_type = [value for value in near if world.value_kind(value) == world.value_kind(answer)]
    last = world.names[answer].last if answer in world.names else ""
    namesakes = [other for other in world.named(last) if other != answer]
    any_of_kind = world.alternatives(answer, rng)
    if of_type and rng.random() < 0.5:
        return rng.choice(of_type)
    return rng.choice(rng.choice([values for values in (near, namesakes, any_of_kind) if values]))
