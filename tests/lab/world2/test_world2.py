"""The second world: spellings checked by hand, and its oracle against a reading of the passages alone."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast.lab.world import write_question
from aslfast.lab.world2.forms import (
    DAYS,
    LAST_WORDS,
    MONTHS,
    NUMBERS,
    YEARS,
    EntityName,
    date_forms,
    entity_names,
    number_forms,
)
from aslfast.lab.world2.schema import SCHEMA2, VALUE_KINDS, literal_kind
from aslfast.lab.world2.world import Told, World2, parse_question2
from aslfast.rewards import normalize

CLASSES = ("base", "train", "heldout")
SEEDS = range(3)
NAMES = {
    name.full: name
    for name in (
        EntityName("Dr", "Tamo", "Vilken"), EntityName("Sir", "Kelo", "Vilken"), EntityName("Prof", "Tilu", "Vilken"),
        EntityName("Port", "Bora", "Zelard"),
    )
}  # fmt: skip
TAMO, KELO, TILU, PORT = NAMES
BY_HAND = World2(
    {TAMO: "person", KELO: "person", TILU: "person", PORT: "place"},
    {
        TAMO: {"birthplace": PORT, "job": "baker"}, KELO: {"job": "mason", "spouse": TAMO},
        TILU: {"born": "3 May 1742"}, PORT: {"height": "47", "founder": KELO},
    },
    NAMES,
    {e: Told(e, {}, {}) for e in NAMES},
)  # fmt: skip


def test_dates_and_numbers_by_hand():
    assert date_forms("3 May 1742") == ("3 May 1742", "May 3 1742", "1742-05-03")
    assert number_forms("47") == ("47", "forty seven") and number_forms("90") == ("90", "ninety")
    assert [literal_kind(value) for value in ("3 May 1742", "47", "baker", "Galdor")] == [
        "date", "number", "job", "country",
    ]  # fmt: skip


def test_no_two_values_share_a_spelling():
    """After the normalisation of exact match too."""
    dates = [date_forms(f"{day} {month} {year}") for day in DAYS for month in MONTHS for year in YEARS]
    for forms in (dates, [number_forms(str(number)) for number in NUMBERS]):
        spelled = [normalize(form) for of_one in forms for form in of_one]
        assert len(set(spelled)) == len(spelled)


def test_the_words_of_two_kinds_differ():
    words = [word for of_kind in LAST_WORDS.values() for word in of_kind]
    assert len(set(words)) == len(words) == 360


def test_a_form_that_names_two_is_right_for_neither():
    assert BY_HAND.forms(TAMO) == ("Tamo Vilken", "Dr Tamo Vilken")  # T. Vilken may be Tilu, Vilken any of three
    assert BY_HAND.forms(KELO) == ("K. Vilken", "Kelo Vilken", "Sir Kelo Vilken")
    assert BY_HAND.forms(PORT) == ("B. Zelard", "Bora Zelard", "Port Bora Zelard", "Zelard")
    assert list(BY_HAND.named("T. Vilken")) == [TAMO, TILU] and not BY_HAND.named("Dr Kelo Vilken")


@pytest.mark.parametrize(
    ("question", "answers", "right"),
    [
        ("what is the job of Dr Tamo Vilken?", ["baker"], ("baker",)),
        ("what is the height of the birthplace of Tamo Vilken?", ["47"], ("47", "forty seven")),
        ("what is the spouse of the founder of Zelard?", [TAMO], ("Tamo Vilken", "Dr Tamo Vilken")),
        ("what is the job of Vilken?", ["baker", "mason"], ()),  # namesakes
        ("what is the job of T. Vilken?", ["baker"], ("baker",)),  # only one of the two has a job
        ("what is the born of T. Vilken?", ["3 May 1742"], ("3 May 1742", "May 3 1742", "1742-05-03")),
        ("what is the born of K. Vilken?", [], ()),  # a missing fact
        ("what is the river of K. Vilken?", [], ()),
        ("what is the job of Sir Tamo Vilken?", [], ()),  # nobody's name
        ("what is the job of the job of Tamo Vilken?", [], ()),
        ("what is Tamo Vilken?", [], ()),
        ("what is the job of Tamo Vilken? or not?", [], ()),
        ("", [], ()),
    ],
)
def test_the_oracle_by_hand(question, answers, right):
    assert BY_HAND.answer_values(question) == answers and BY_HAND.answer(question) == right


def read_facts(world):
    """(subject's long form, relation) -> written value, from the passages' text alone."""
    found = {}
    for passage in world.passages():
        title, text = passage.contents.split("\n")
        for part in re.split(r"(?<=[\w])\.(?: |$)(?=[^ ]|$)", re.sub(r"\b([A-Z])\. ", r"\1_", text)):
            if match := re.fullmatch(r".+ has ([a-z]+) (.+)", part):
                found[title.strip('"'), match[1]] = match[2].replace("_", ". ")
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name_class", CLASSES)
def test_the_passages_say_the_facts_in_right_spellings(seed, name_class):
    world = World2.make(seed, name_class)
    facts = {(world.names[e].long, r): v for e, known in world.facts.items() for r, v in known.items()}
    read = read_facts(world)
    assert set(read) == set(facts)
    assert all(written in world.forms(facts[key]) for key, written in read.items())
    missing = [[r for r in SCHEMA2[world.kinds[e]] if r not in known] for e, known in world.facts.items()]
    assert {len(relations) for relations in missing} == ({1, 2} if name_class == "base" else {1})
    assert {relations[0] for relations in missing} == {r for known in SCHEMA2.values() for r in known}
    assert all(world.value_kind(v) == VALUE_KINDS[r] for (_, r), v in facts.items())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mention_states_nothing(seed):
    world = World2.make(seed, "train")
    for entity, told in world.told.items():
        assert entity not in told.mentioned and set(told.written) == set(world.facts[entity])
    mentions = [told for told in world.told.values() if told.mentioned]
    assert 0.2 < len(mentions) / len(world.told) < 0.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name_class", CLASSES)
def test_questions_have_one_answer_and_unanswerable_ones_none(seed, name_class):
    world, rng = World2.make(seed, name_class), random.Random(seed)
    asked = world.questions(rng, 200)
    assert len({one.question for one in asked}) == 200 and [one.hops for one in asked] == [1, 2, 3, 4] * 50
    for one in asked:
        parsed = parse_question2(one.question)
        assert parsed is not None and list(world.named(parsed[0])) == [one.chain[0]]
        assert world.answer_values(one.question) == [one.answer] and len(set(one.chain)) == one.hops + 1
        assert world.answer(one.question) == world.forms(one.answer)
        assert set(world.references(one)) == set(world.forms(one.answer)) and world.names.keys() >= {one.chain[0]}
    for hops in (1, 2, 3, 4):
        assert world.answer(world.ask_in_vain(rng, hops)) == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_right_spellings_of_two_values_never_coincide(seed):
    """So what a reader finds and what was answered are the same value just where one could stand for the other."""
    world = World2.make(seed, "heldout")
    spelled = [normalize(form) for entity in world.facts for form in world.forms(entity)]
    assert len(set(spelled)) == len(spelled)
    short = [entity for entity in world.facts if world.names[entity].last in world.forms(entity)]
    assert 0.3 < len(short) / len(world.facts) < 0.7  # both kinds exist: with and without a namesake


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from(sorted(VALUE_KINDS)), min_size=1, max_size=5), st.sampled_from(sorted(SCHEMA2)),
    st.sampled_from(CLASSES), st.integers(0, 3), st.integers(0, 1 << 30),
)  # fmt: skip
def test_parse_undoes_write_in_every_form(relations, kind, name_class, form, seed):
    subject = next(entity_names(kind, name_class, random.Random(seed))).forms[form]
    question = write_question(subject, relations)
    assert parse_question2(question) == (subject, relations)
    assert parse_question2(f" {question[:-1]}\n ?") == (subject, relations)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_entity_is_in_two_worlds_of_different_classes(seed):
    found = {c: set(World2.make(seed, c).names) for c in CLASSES}
    assert not found["base"] & found["train"] and not found["base"] & found["heldout"]
    assert not found["train"] & found["heldout"]


def test_same_seed_same_world():
    one, same, other = (World2.make(seed, "train") for seed in (5, 5, 6))
    assert one == same and one.passages() == same.passages() and one.passages() != other.passages()
