"""The lab's world: its oracle against a brute-force reading of the passages, its names, its questions."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast.lab.names import FIRST_WORDS, SECOND_WORDS, names, near_name
from aslfast.lab.world import RELATIONS, SCHEMA, World, parse_question, write_question

CLASSES = ("base", "train", "heldout")
FACT = re.compile(r"(\w+ \w+) has ([a-z]+) (\w+(?: \w+)?)\.")
SIZES = {"work": 30, "person": 25, "place": 20}


def read_facts(passages):
    """(subject, relation) -> value, read from the passages' text alone."""
    found = [match.groups() for passage in passages for match in FACT.finditer(passage.contents)]
    return {(subject, relation): value for subject, relation, value in found}


def brute_force(facts, question):
    """Follows a question's relations from the right, with no help from World."""
    words = question.removesuffix("?").split(" of ")
    current = words[-1].strip()
    for part in reversed(words[:-1]):
        current = facts.get((current, part.split()[-1]))
        if current is None:
            return None
    return current


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name_class", CLASSES)
def test_oracle_against_a_walk_through_the_passages(seed, name_class):
    made = World.make(seed, name_class)
    facts = read_facts(made.passages())
    assert len(facts) == 3 * len(made.facts)
    for item in made.questions(random.Random(seed), 300):
        assert made.answer(item.question) == item.answer == brute_force(facts, item.question)
        parsed = parse_question(item.question)
        assert parsed is not None
        subject, relations = parsed
        assert len(relations) == item.hops == len(item.chain) - 1
        assert item.chain[0] == subject and item.chain[-1] == item.answer


def test_what_cannot_be_solved_has_no_answer():
    made = World.make(0, "train", SIZES)
    work = next(e for e, kind in made.kinds.items() if kind == "work")
    other = next(names("heldout", random.Random(0)))
    assert made.answer(f"what is the genre of {work}?") is not None
    for question in (
        f"what is the river of {work}?",
        f"what is the job of the genre of {work}?",
        f"what is the genre of {other}?",
        f"what is the colour of {work}?",
        f"what is {work}?",
        f"who is the author of {work}?",
        f"what is the genre of {work}",
        f"what is the genre of {work}? or not?",
        "",
    ):
        assert made.answer(question) is None, question


@given(st.lists(st.sampled_from(RELATIONS), min_size=1, max_size=5), st.integers(0, 1 << 30), st.sampled_from(CLASSES))
def test_parse_undoes_write(relations, seed, name_class):
    subject = next(names(name_class, random.Random(seed)))
    assert parse_question(write_question(subject, relations)) == (subject, relations)
    assert parse_question("  " + write_question(subject, relations).replace(" of ", "  of\n")) == (subject, relations)


def test_name_classes_share_no_name():
    every = [f"{first} {second}" for first in FIRST_WORDS for second in SECOND_WORDS]
    assert len(set(every)) == len(every)
    found = {c: set() for c in CLASSES}
    for name_class in CLASSES:
        for seed in range(3):
            stream = names(name_class, random.Random(seed))
            found[name_class] |= {next(stream) for _ in range(1500)}
    for one, other in (("base", "train"), ("base", "heldout"), ("train", "heldout")):
        assert not found[one] & found[other]


@pytest.mark.parametrize("seed", range(3))
def test_heldout_entities_never_occur_in_the_train_world(seed):
    learned, heldout = World.make(seed, "train"), World.make(seed, "heldout")
    text = "\n".join(passage.contents for passage in learned.passages())
    assert not [name for name in heldout.facts if name in text]
    one, other = ({word for name in w.facts for word in name.split()} for w in (learned, heldout))
    assert one & other  # the words are shared: only the pairs are new


@settings(max_examples=30)
@given(st.integers(0, 1 << 30), st.sampled_from(CLASSES))
def test_near_name_shares_one_word_and_stays_in_its_class(seed, name_class):
    rng = random.Random(seed)
    name = next(names(name_class, rng))
    near = near_name(name, name_class, rng)
    assert sum(a == b for a, b in zip(name.split(), near.split(), strict=True)) == 1
    first, second = near.split()
    i, j = FIRST_WORDS.index(first), SECOND_WORDS.index(second)
    own = {c: (i + j) % 5 in shares for c, shares in {"base": (2, 3, 4), "train": (0,), "heldout": (1,)}.items()}
    assert [c for c in CLASSES if own[c]] == [name_class]


def test_passages_repeat_their_subject():
    made = World.make(1, "heldout", SIZES)
    passages = made.passages()
    assert len({p.id for p in passages}) == len(passages) == sum(SIZES.values())
    for passage, (entity, facts) in zip(passages, made.facts.items(), strict=True):
        title, text = passage.contents.split("\n")
        assert title == f'"{entity}"'
        assert text.count(f"{entity} has ") == len(facts) == 3
        assert read_facts([passage]) == {(entity, relation): value for relation, value in facts.items()}
        assert set(facts) == set(SCHEMA[made.kinds[entity]])


def test_values_are_of_the_kind_that_the_relation_asks_for():
    made = World.make(2, "train", SIZES)
    for entity, facts in made.facts.items():
        for relation, value in facts.items():
            kind = SCHEMA[made.kinds[entity]][relation]
            assert made.value_kind(value) == kind and value != entity
            others = made.alternatives(value)
            assert value not in others and len(others) > 5
            assert {made.value_kind(other) for other in others} == {kind}


def test_questions_are_distinct_and_cycle_through_the_hops():
    made = World.make(0, "train", SIZES).questions(random.Random(0), 90)
    assert len({item.question for item in made}) == 90
    assert [item.hops for item in made] == [1, 2, 3] * 30
    assert all(len(set(item.chain)) == len(item.chain) for item in made)


def test_same_seed_same_world():
    assert World.make(5, "train", SIZES) == World.make(5, "train", SIZES)
    assert World.make(5, "train", SIZES) != World.make(6, "train", SIZES)
