"""CoMAS: the point that solution and critique share, agents with weights of their own, and discussions in the lab."""

import asyncio
import re
from collections import Counter

import pytest

from aslfast.config import load_recipe
from aslfast.core import Task
from aslfast.errors import UserError
from aslfast.phase import Play
from aslfast.systems.selfplay.comas import CoMAS, triple_rewards
from tests.support.systems.acts import act
from tests.support.systems.played import play_killed, play_small

SMALL = ("own_phase.CoMAS.tasks_per_step=2", "own_phase.CoMAS.group_size=1", "own_phase.CoMAS.options.rounds=3")


def phase(recipe):
    config = load_recipe(recipe)
    return CoMAS(config, config.own_phase["CoMAS"].options)


@pytest.mark.parametrize(
    ("said", "paid"),
    [("1", [0.0, 1.0, 0.0]), ("2", [0.5, 0.5, 0.0]), ("3", [1.0, 0.0, 0.0]), ("4", [None, None, -1.0]),
     ("fine", [None, None, -1.0]), (None, [None, None, -1.0]), ("wrong", [0.0, 1.0, 0.0])],
)  # fmt: skip
def test_solution_and_critique_share_a_point(said, paid):
    acts = act("policy", "Oslo"), act("agent_2_critic", "It is not."), act("policy_scorer", said)
    assert phase("comas").rewards(None, [acts, acts * 2]) == [paid, paid * 2]
    assert [triple_rewards(score) for score in (0.25, None)] == [(0.25, 0.75, 0.0), (None, None, -1.0)]


def test_four_agents_with_three_roles_each():
    made = phase("comas")
    assert made.agents == ["policy", "agent_2", "agent_3", "agent_4"] and len(made.roles) == 12
    assert made.config.adapters_of(made.roles) == tuple(made.agents)
    with pytest.raises(UserError, match=r"CoMAS: no role is an agent; add tables roles\.NAME_critic"):
        CoMAS(load_recipe("tiny"), {})


def test_a_solver_reads_the_last_two_rounds_and_no_score(make_context):
    """The first answer is out of sight in the fourth round; the scores never are in it."""

    def script(prompt, seed):
        if "score this" in prompt:
            return ["<score>2</score><|im_end|>"]
        rounds = len(re.findall("Answer: ", prompt))
        return [f"<answer>town {rounds}</answer>" if "solve" in prompt else f"<critique>no {rounds}</critique>"]

    prompts = {"solve": "solve {question} {history}", "criticise": "object {answer}", "score": "score this {critique}"}
    settings = [f'own_phase.CoMAS.options.{key}="{text}"' for key, text in prompts.items()]
    roles = [f'roles.{n}{part}.adapter="{n}"' for n in ("policy", "two") for part in ("_critic", "_scorer")]
    tags = [f'roles.{n}{part}.output=["{tag}"]' for n in ("policy", "two")
            for part, tag in (("_critic", "critique"), ("_scorer", "score"))]  # fmt: skip
    names = ["roles.policy.depth=0", "roles.two.depth=0"]
    context = make_context(script=script, overrides=[
        'phases=["aslfast.systems.selfplay.comas:CoMAS"]', *settings, *names, *roles, *tags,
    ])  # fmt: skip
    made = CoMAS(context.config, context.config.own_phase["CoMAS"].options)
    play = Play(context.start_step().for_group(), Task("t", "policy", "", "Which town?"), 0)
    acts = asyncio.run(made.play(play, play.task))
    assert len(acts) == 2 * 2 * 3  # twice the number of agents
    solved = [a.task.prompt for a in acts[::3]]
    assert solved[0] == "solve Which town? (nothing yet)"
    assert solved[3].count("Answer: ") == 2 and solved[1].count("Answer: ") == 1
    assert acts[1].task.prompt == "object town 0" and acts[2].task.prompt == "score this no 0"
    assert not any("score" in prompt or "<" in prompt for prompt in solved)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_small("comas-tiny", tmp_path_factory.mktemp("comas") / "run", SMALL)


def test_every_agent_plays_every_act_and_learns(played):
    assert played.moved == {"policy", "agent_2"}
    counts = Counter(row["role"] for row in played.rows)
    assert set(counts) == {"policy", "policy_critic", "policy_scorer", "agent_2", "agent_2_critic", "agent_2_scorer"}
    assert sum(counts.values()) == 2 * 2 * 3 * 3  # steps, questions, rounds, acts
    for line in played.lines:
        assert line["grad_norm"] > 0 and "agent_2" in line["other_updates"]


def test_the_rewards_of_the_lab_add_up(played):
    discussion = [row for row in played.rows if row["task_id"].startswith("CoMAS1-0-")]
    by_number = {int(row["task_id"].rpartition(".")[2].removeprefix(row["role"])): row for row in discussion}
    for first in range(1, 10, 3):
        solution, critique, score = (by_number[first + i] for i in range(3))
        if score["output"] is None:
            assert score["reward"] == -1 and solution["reward"] is None and critique["reward"] is None
        else:
            assert solution["reward"] + critique["reward"] == 1 and score["reward"] == 0
            assert solution["reward"] == (score["output"] == "correct")


def test_a_resume_gives_the_same_bits(played, tmp_path):
    assert play_killed("comas-tiny", tmp_path / "run", SMALL).same_as(played)
