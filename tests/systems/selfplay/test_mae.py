"""MAE: rewards as in the paper, pools that grow, and one round in which one adapter learns all three roles."""

import pytest

from aslfast.core import StopReason, Task, Trajectory
from aslfast.systems.selfplay.mae import form, proposer_reward, quality_of, solver_reward
from tests.support.systems.played import play_killed, play_small

SMALL = ("own_phase.MAE.tasks_per_step=2", "own_phase.MAE.group_size=3", "own_phase.MAE.options.tries=2",
         "own_phase.MAE.options.reference_share=1.0")  # fmt: skip


def act(stop=StopReason.FINISHED, output="7"):
    return Trajectory(
        Task("t", "grm", ""), (1,), (1,), (0.0,), (), stop, output if stop is StopReason.FINISHED else None
    )


@pytest.mark.parametrize(
    ("said", "score"),
    [("1", 0.0), ("10", 1.0), ("7", 2 / 3), ("0", 0.5), ("11", 0.5), ("good", 0.5), ("correct", 1.0), ("wrong", 0.0)],
)
def test_scores_are_mapped_from_one_to_ten(said, score):
    assert quality_of(act(output=said)) == pytest.approx(score)


def test_the_format_of_one_tag():
    stops = StopReason.FINISHED, StopReason.TWO_OUTPUTS, StopReason.NO_OUTPUT, StopReason.TURN_LIMIT
    assert [form(act(stop)) for stop in stops] == [1.0, 0.5, 0.0, 0.0]
    assert quality_of(act(StopReason.NO_OUTPUT)) == 0.5  # a score that cannot be read


@pytest.mark.parametrize(
    ("quality", "solved", "parts"),
    [
        (0.8, 0.25, (0.8 / 3, 0.25, 1 / 3)),
        (0.7, 1.0, (0.7 / 3, 0.0, 1 / 3)),
        (0.6, 0.25, (0.2, 0.0, 1 / 3)),  # not good enough: its difficulty is dropped
    ],
)
def test_the_proposer_earns_quality_difficulty_and_form(quality, solved, parts):
    assert tuple(proposer_reward(quality, solved, 1.0).values()) == pytest.approx(parts)


def test_the_solver_earns_half_by_the_judge_and_half_by_form():
    assert solver_reward(0.75, 0.5) == {"judge": 0.375, "format": 0.25}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_small("mae-tiny", tmp_path_factory.mktemp("mae") / "run", SMALL)


def test_all_three_roles_learn_on_one_adapter(played):
    assert played.moved == {"policy"} and len(played.lines) == 2
    for line in played.lines:
        assert set(line["roles"]) == {"generator", "policy", "grm"} and line["grad_norm"] > 0
        assert line["roles"]["grm"]["reward_parts"].keys() == {"reward"}
    assert {"quality", "difficulty", "format"} <= played.lines[0]["roles"]["generator"]["reward_parts"].keys()


def test_the_pools_grow_and_are_drawn_from(played):
    pools = {name: {path[3] for path in played.kept if path[1:3] == (name, "items")} for name in ("questions", "pairs")}
    assert pools["questions"] and pools["pairs"]
    kept = {body["question"]["text"] for path, body in played.kept.items() if path[1] == "questions"}
    first, second = ([row for row in played.rows if row["step"] == step] for step in (1, 2))
    written = {row["output"] for row in first if row["role"] == "generator"}
    asked = {row["question"] for row in second if row["role"] == "policy"}
    assert asked <= kept and asked <= written  # not those of the second step, which are pooled after it
    starts = {
        row["conversation"].partition("ask 1: ")[2].split("\n")[0] for row in second if row["role"] == "generator"
    }
    answers = {body["question"]["references"][0] for path, body in played.kept.items() if path[1] == "questions"}
    assert starts <= answers  # proposals that are shown a pooled question


def test_a_resume_gives_the_same_bits(played, tmp_path):
    assert play_killed("mae-tiny", tmp_path / "run", SMALL).same_as(played)
