"""ExIt: gains, distances, the buffer of histories, and a round in the lab."""

import pytest

from aslfast.systems.improve.exit import distance, gain
from tests.support.systems.played import play_killed, play_small

SMALL = ["own_phase.ExIt.options.least=2", "own_phase.ExIt.options.size=12", "own_phase.ExIt.steps=3",
         "own_phase.ExIt.tasks_per_step=4"]  # fmt: skip


@pytest.mark.parametrize(
    ("new", "old", "reward"), [(1.0, 0.0, 1.0), (0.75, 0.5, 0.5), (0.4, 0.5, 0.0), (1.0, 1.0, 0.0)]
)
def test_an_answer_to_a_history_earns_the_part_that_it_gains(new, old, reward):
    assert gain(new, old) == pytest.approx(reward)


def test_distances_favour_what_differs_and_keep_the_mean():
    """Counts oslo 2, bergen 1: cosines 2/sqrt(5), 2/sqrt(5) and 1/sqrt(5), so 0.1056, 0.1056 and 0.5528."""
    found = distance([1.0] * 5, [0.0] * 5, [0, 0, 0, 1, 1], ["Oslo", "oslo", "Bergen", "Rome", "Rome"])
    assert found == pytest.approx([0.4146, 0.4146, 2.1708, 1.0, 1.0], abs=1e-4)
    assert distance([1.0], [0.0], [0], [""]) == [1.0]


def test_a_round_in_the_lab(tmp_path):
    whole = play_small("exit-tiny", tmp_path / "whole", SMALL)
    assert whole.moved == {"policy"} and len(whole.lines) == 3
    pool = {path[3] for path in whole.kept if path[1:3] == ("pool", "items")}
    histories = {path[2] for path in whole.kept if path[1] == "histories"}
    assert pool == histories and len(pool) == 12 < whole.kept[("ExIt", "added")]
    again = [row for row in whole.rows if "-history" in row["task_id"]]
    assert len(again) == 2 * 2 * 4  # half of the second and the third step; the buffer is empty at first
    for row in again:  # what was said before carries no loss
        before, _, after = row["conversation"].rpartition("=== prompt ===")
        learnt = sum(now and not last for last, now in zip([0, *row["loss_mask"]], row["loss_mask"], strict=False))
        assert before.count("=== model ===") > 0 < learnt == after.count("=== model ===")
    assert play_killed("exit-tiny", tmp_path / "killed", SMALL).same_as(whole)
