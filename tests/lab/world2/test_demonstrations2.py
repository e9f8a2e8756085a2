"""Demonstrations in the second world: clean ones agree with the oracle, noisy ones err where the rates say so."""

import random
import re
from contextlib import suppress

import pytest

from aslfast.index.bm25 import BM25Index
from aslfast.lab.curriculum import TOP_K
from aslfast.lab.world import write_question
from aslfast.lab.world2 import practice
from aslfast.lab.world2.demonstrations import (
    NOTHING,
    RELATION_WEIGHT,
    Demonstrator2,
    SearchMissed,
    house_form,
    respellings,
    wrong_value,
)
from aslfast.lab.world2.noise import JudgedAnswer, NoiseRates2
from aslfast.lab.world2.vocabulary import make_tokenizer2
from aslfast.lab.world2.world import World2
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.tool_calls import search_call
from aslfast.rollout.search_tool import SearchTool

CHAT = Chat(make_tokenizer2())
WORLD = World2.make(3, "base")
CLEAN = NoiseRates2()


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    tool = SearchTool(BM25Index.build(WORLD.passages(), tmp_path_factory.mktemp("w") / "idx", threads=1), TOP_K)
    return lambda query: tool.answer([search_call(query)])[0].text


def demonstrator(search, noise=CLEAN, seed=0):
    return Demonstrator2(CHAT, WORLD, search, noise, random.Random(seed))


def said(example):
    ids = [i for i, weight in zip(example.token_ids, example.weights, strict=True) if weight]
    return CHAT.text(ids)


def tag(name, text):
    return re.findall(rf"<{name}>(.*?)</{name}>", text)[-1].strip()


def test_a_clean_policy_is_right_wherever_its_search_finds_the_passage(search):
    clean, found = demonstrator(search), []
    for asked in WORLD.questions(random.Random(1), 400):
        answer = tag("answer", said(clean.policy(asked.question)))
        assert answer in (*WORLD.answer(asked.question), NOTHING)
        assert answer in (WORLD.references(asked)[0], NOTHING)  # as the passage spells it
        found.append(answer != NOTHING)
    assert sum(found) / len(found) > 0.9  # two passages are enough, namesakes or not


def test_a_clean_policy_says_so_where_a_fact_is_missing(search):
    rng = random.Random(2)
    for hops in (1, 2, 3, 4):
        question = WORLD.ask_in_vain(rng, hops)
        assert tag("answer", said(demonstrator(search).policy(question))) == NOTHING
        value = next(iter(WORLD.facts))
        assert tag("verdict", said(demonstrator(search).judge(question, value, value, 1.0))) == "wrong"


def test_a_clean_judge_agrees_with_the_oracle(search):
    rng, agreed = random.Random(3), []
    for i, asked in enumerate(WORLD.questions(rng, 120)):
        value = asked.answer if i % 2 else wrong_value(WORLD, asked.question, rng)
        answer = rng.choice(WORLD.forms(value))
        verdict = tag("verdict", said(demonstrator(search).judge(asked.question, value, answer, 1.0)))
        right = answer in WORLD.answer(asked.question)
        assert right == bool(i % 2)
        agreed.append(verdict == ("correct" if right else "wrong"))
        assert agreed[-1] or NOTHING in said(demonstrator(search).judge(asked.question, value, answer, 1.0))
    assert sum(agreed) / len(agreed) > 0.93


def generated(search, seed, count):
    """Return (asked, example) of questions whose topic search finds."""
    for asked in WORLD.questions(random.Random(seed), count):
        with suppress(SearchMissed):
            yield asked, demonstrator(search).generator(asked)


def test_a_clean_generator_writes_the_oracles_answer_in_its_own_form(search):
    made = list(generated(search, 4, 80))
    assert len(made) > 75
    for asked, example in made:
        question, reference = tag("question", said(example)), tag("answer", said(example))
        hops = question.count(" of ")
        assert question == write_question(asked.chain[0], asked.relations[:hops])
        assert reference in WORLD.answer(question)
        answer, written = asked.chain[hops], WORLD.told[asked.chain[hops - 1]].written[asked.relations[hops - 1]]
        assert reference == house_form(WORLD, answer, written)
        assert reference == WORLD.forms(answer)[0] or len(written.split()) == 1 or answer in WORLD.names


def test_a_generator_states_only_what_it_has_read_and_asks_less_where_search_misses(search):
    shorter = 0
    for asked, example in generated(search, 6, 200):
        text = CHAT.text(list(example.token_ids))
        stated = list(re.finditer(r"<think> ?([^<]+? has [^<]+?\.)(?=| find|<)", text))
        assert stated
        assert all(text.index(thought[1]) < thought.start() for thought in stated), text
        shorter += text.count(" of ", text.index("<question>")) < asked.hops
    assert 5 < shorter < 60  # one in six


def test_a_generator_whose_topic_search_does_not_find_says_so():
    asked = WORLD.ask(random.Random(1), 2)
    with pytest.raises(SearchMissed, match=asked.chain[0]):
        demonstrator(lambda query: '"Dr Nobody"\nNobody has job clerk.').generator(asked)


def test_a_generators_relations_weigh_more_and_stand_in_what_it_read(search):
    for asked, example in generated(search, 6, 12):
        heavy = [i for i, weight in enumerate(example.weights) if weight == RELATION_WEIGHT]
        said_of = [CHAT.text([example.token_ids[i]]).strip() for i in heavy]
        followed = list(asked.relations[: tag("question", said(example)).count(" of ")])
        assert said_of in (followed, [*followed, followed[-1]])  # the last again where search missed after it
        for i in heavy:
            assert f" has{CHAT.text([example.token_ids[i]])} " in CHAT.text(list(example.token_ids[:i]))


def test_forms_that_follow_from_another():
    entity = next(e for e in WORLD.names if len(WORLD.forms(e)) == 4)
    name = WORLD.names[entity]
    assert set(respellings(WORLD, entity, name.long)) == set(name.forms)
    assert set(respellings(WORLD, entity, name.full)) == {name.full, name.initial, name.last}
    assert respellings(WORLD, entity, name.last) == [name.last]
    assert house_form(WORLD, entity, name.last) == name.last and house_form(WORLD, entity, name.long) == name.initial
    assert house_form(WORLD, "3 May 1742", "1742-05-03") == "3 May 1742"
    assert house_form(WORLD, "47", "forty seven") == "47"


def test_wrong_values_are_wrong_and_often_of_the_right_type():
    rng, of_type = random.Random(5), []
    for asked in WORLD.questions(rng, 300):
        value = wrong_value(WORLD, asked.question, rng)
        assert not set(WORLD.forms(value)) & set(WORLD.answer(asked.question))
        of_type.append(WORLD.value_kind(value) == WORLD.value_kind(asked.answer))
    assert sum(of_type) / 300 > 0.5


WEAK = NoiseRates2(
    wrong_verdict=0.1, pass_seen=0.3, pass_long=0.2, pass_house=0.15, fail_unusual=0.35, fail_long=-0.05
)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (JudgedAnswer(right=True), 0.1),
        (JudgedAnswer(right=True, seen=True), 0.1),
        (JudgedAnswer(right=True, long=True), 0.05),
        (JudgedAnswer(right=True, unusual=True), 0.45),
        (JudgedAnswer(right=False), 0.1),
        (JudgedAnswer(right=False, unusual=True), 0.1),
        (JudgedAnswer(right=False, seen=True), 0.4),
        (JudgedAnswer(right=False, seen=True, long=True), 0.6),
        (JudgedAnswer(right=False, house=True), 0.25),
    ],
)
def test_the_judges_errors_by_hand(answer, error):
    assert WEAK.error(answer) == pytest.approx(error)


def test_a_weak_judge_passes_long_wrong_answers_and_fails_short_right_ones(search):
    """The rate of errors in demonstrations is the sum of the rates that hold."""
    rates = NoiseRates2(pass_long=1.0, fail_unusual=1.0)
    rng = random.Random(6)
    asked_of = WORLD.questions(rng, 400, (1,))
    entity = next(a.answer for a in asked_of if a.answer in WORLD.names and len(WORLD.forms(a.answer)) == 4)
    name = WORLD.names[entity]
    stated = [a for a in asked_of if a.answer == entity]
    others = [a for a in WORLD.questions(rng, 100, (1,)) if a.answer not in WORLD.names]
    for asked, answer, verdict in [
        *((a, name.last, "wrong") for a in stated), *((a, name.full, "correct") for a in stated),
        *((a, name.long, "correct") for a in others[:5]), *((a, name.full, "wrong") for a in others[:5]),
    ]:  # fmt: skip
        text = said(demonstrator(search, rates).judge(asked.question, entity, answer, 1.0))
        assert tag("verdict", text) == verdict or NOTHING in text
    assert stated


def test_practice_says_same_of_two_spellings_of_one_value():
    rng = random.Random(7)
    pairs = [practice._pair(rng) for _ in range(4000)]
    assert 0.45 < sum(same for *_, same in pairs) / 4000 < 0.55
    by_label = [{(left, right) for (left, _), (right, _), same in pairs if same == label} for label in (True, False)]
    assert not by_label[0] & by_label[1]
    for (_, left), (_, right), same in pairs:
        if same:  # in the generator's form one value differs by an initial at the most
            assert left == right or left.split(". ")[-1] == right.split(". ")[-1]
