"""The rank of a passage, and the reward of docs/rewards.md that is paid by it."""

import re
from pathlib import Path

import pytest

from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.rewards import AnswerEvidence, policy_reward, rank_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
(CODE,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "rank_of" in code)
FOUND = ((), ("d2", "d7", "d1"), ("d7", "d3", "d9", "d4"))  # of three searches


def trajectory(*references, stop=StopReason.NO_OUTPUT):
    turns = [turn for ids in FOUND for turn in (Turn("sampled", 0, 0, "d4"), Turn("tool", 0, 0, "", passages=ids))]
    return Trajectory(Task("t", "policy", "", "q", references), (), (), (), tuple(turns), stop)


RANKS = {"d2": 1, "d7": 2, "d1": 3, "d3": 2, "d4": 4, "d5": None, "": None}


@pytest.mark.parametrize(("name", "rank"), RANKS.items())
def test_ranks_start_at_one_in_the_first_turn_that_has_the_passage(name, rank):
    assert rank_of(trajectory(), name) == rank


@pytest.mark.parametrize(("references", "reward"), [(("d7",), 1 / 2), (("d4", "d1"), 1 / 3), (("d5",), 0.0), ((), 0.0)])
def test_the_pages_reward_is_paid_by_the_rank(references, reward, tmp_path, monkeypatch):
    (tmp_path / "ranked.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    paid = policy_reward(trajectory(*references), [], 1.0, "ranked:reciprocal_rank")
    assert paid.total == pytest.approx(reward)
    assert AnswerEvidence(None).trajectory is None
