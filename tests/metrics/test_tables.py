"""The table and the plot of a run, from its two files of lines."""

import io
import json
import struct

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from aslfast.errors import UserError
from aslfast.metrics.alarm_tables import monitor_tables
from aslfast.metrics.plots import _plot_rewards, draw
from aslfast.metrics.run_log import RunLog
from aslfast.metrics.tables import markdown_table, prefix_cache_table, table, time_table
from tests.support.run_files import round_line, write_run


@pytest.fixture
def run(tmp_path):
    rounds = [round_line(0, 0.37, 0.69, (0.55, 0.33, 0.23)), round_line(1, 0.5, 0.72, (0.8, 0.4, 0.3))]
    rewards = {"generator": (0.2, 0.4), "grm": (0.6, 0.8), "policy": (0.5, 0.75)}
    steps = [
        {"round": 1, "phase": role, "step": i, "reward": r, "reward_parts": {}}
        for role, seen in rewards.items()
        for i, r in enumerate(seen, 1)
    ]
    return write_run(tmp_path / "run", rounds, steps)


def test_markdown_shows_truth_with_intervals_beside_the_rewards(run):
    lines = markdown_table(run).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["0", "37.0% (32-43)", "55/33/23", "69.0% (64-74)", "50.0% (42-58)", "-", "-", "-", "81 s"]
    truth, rewards = ["50.0% (44-56)", "80/40/30", "72.0% (67-77)", "50.0% (42-58)"], ["0.30", "0.70", "0.62"]
    assert cells[3] == ["1", *truth, *rewards, "81 s"]


@pytest.mark.parametrize("width", [80, 140])
def test_table_fits_its_terminal_and_loses_nothing(run, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(RunLog.read(run), width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for piece in ("37.0%", "(32-43)", "80/40/30", "(67-77)", "0.62"):
        assert piece in text


def test_gain_is_from_round_0_to_the_last(run):
    log = RunLog.read(run)
    assert log.gain() == pytest.approx(13.0)
    assert log.sentence().endswith("37.0% for the base, 50.0% after round 1: +13.0 points.")
    assert log.as_json()["rounds"][1]["rewards"] == {"generator": pytest.approx(0.3), "grm": 0.7, "policy": 0.625}


def test_plot_is_complete_and_of_the_size_promised(run):
    plot = draw(run)
    data = plot.read_bytes()
    assert data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82")
    assert struct.unpack(">II", data[16:24]) == (1200, 700)
    assert sorted(p.name for p in run.iterdir()) == ["curves.png", "metrics.jsonl", "rounds.jsonl"]


def test_plot_of_two_judges_and_of_a_reward_below_zero(run):
    """A second judge has a phase of its own; R-Zero gives less than nothing for an ill-formed question."""
    plain = draw(run).read_bytes()
    for name, reward in (("second_judge", 0.9), ("generator", -0.5)):
        with (run / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({"round": 1, "phase": name, "step": 3, "reward": reward, "reward_parts": {}}) + "\n")
        changed = draw(run).read_bytes()
        assert changed != plain
        plain = changed


@pytest.mark.parametrize("names", [("asker", "policy"), ("a_questioner_with_a_very_long_name_indeed", *"bcdefg")])
def test_roles_of_ones_own_have_their_rewards_and_figures(tmp_path, names):
    """Whatever their number and their names, in a terminal of 80 columns; what says nothing of them is left out."""
    own = {"tokens": 20.0, "entropy": 0.05, "finished": 1.0, "repeated_queries": 0.0}
    seen = {name: {"reward": 0.25 - i, "zero_variance_groups": 0.5} for i, name in enumerate(names)}
    rounds = [round_line(0, 0.1, None, ()), {**round_line(1, 0.2, None, ()), "by_role": dict.fromkeys(names, own)}]
    rounds = [{**line, "alarms": [], "new_questions": 0} for line in rounds]
    steps = [{"round": 1, "phase": "Duel", "step": i, "reward": 9.0, "roles": seen} for i in (1, 2)]
    log = RunLog.read(write_run(tmp_path / "run", rounds, steps))
    assert [line["rewards"].get(names[-1]) for line in log.as_json()["rounds"]] == [None, 1.25 - len(names)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(log, 80), *monitor_tables(log))
    rows = [line.split() for line in console.export_text().splitlines() if line.strip().startswith("1 ")]
    assert rows[0] == ["1", "20.0%", *(f"{0.25 - i:.2f}" for i in range(len(names))), "81", "s"]
    assert [row[-5:] for row in rows[1:]] == [["0.50", "20", "0.050", "1.00", "0.00"]] * len(names)
    assert names[1] in rows[2] and not {"GRM", "solvable", "generator", "passed"} & set(console.export_text().split())


def test_plot_has_a_curve_of_each_role_that_plays_in_a_phase(tmp_path):
    drawn = []
    for low in (0.5, -3.0):
        seen = {"asker": {"reward": 0.5}, "policy": {"reward": low}}
        steps = [{"round": 1, "phase": "Duel", "step": i, "reward": 0.0, "roles": seen} for i in (1, 2)]
        log = RunLog.read(write_run(tmp_path / f"run{low}", [round_line(1, 0.1, None, ())], steps))
        axes = Figure().add_subplot()
        _plot_rewards(axes, log)
        drawn.append({line.get_label(): list(line.get_ydata()) for line in axes.get_lines()[1::2]})
        assert axes.get_ylim()[0] == min(0.0, 1.05 * low) and len({line.get_color() for line in axes.get_lines()}) == 2
    assert drawn == [{"asker": [0.5] * 2, "policy": [0.5] * 2}, {"asker": [0.5] * 2, "policy": [-3.0] * 2}]


def test_a_run_without_an_oracle_or_any_step(tmp_path):
    run = write_run(tmp_path / "plain", [round_line(0, 0.1, None, ())], [])
    (run / "metrics.jsonl").unlink()
    row = [cell.strip() for cell in markdown_table(run).splitlines()[2].strip("|").split("|")]
    assert row == ["0", "10.0% (7-14)", "-", "-", "-", "-", "-", "81 s"]
    assert draw(run).stat().st_size > 10_000


def test_reuse_is_summed_by_role_over_the_steps(tmp_path):
    counts = {"requests": 2, "context": 100, "reusable": 60, "reusable_own": 50, "reused": 65, "missed": 15}
    steps = [{"round": 1, "prefix_cache": found} for found in ({"grm": counts, "policy": counts}, {"grm": counts})]
    log = RunLog.read(write_run(tmp_path / "run", [round_line(0, 0.1, None, ())], steps))
    assert log.prefix_cache() == {"grm": {key: 2 * n for key, n in counts.items()}, "policy": counts}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(prefix_cache_table(log))
    said = console.export_text().splitlines()
    assert [line.split() for line in said if "%" in line] == [
        ["grm", "4", "200", "130", "120", "75.0%"], ["policy", "2", "100", "65", "60", "75.0%"]
    ]  # fmt: skip


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"rounds\.jsonl: No such file.*name the folder of a run"):
        RunLog.read(tmp_path)
    (tmp_path / "rounds.jsonl").write_text("")
    with pytest.raises(UserError, match="no round is finished"):
        RunLog.read(tmp_path)
    (tmp_path / "rounds.jsonl").write_text('{"round": 0}\n{"rou')  # a line that is being written
    assert RunLog.read(tmp_path).rounds == [{"round": 0}]
    (tmp_path / "rounds.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="not JSON lines"):
        RunLog.read(tmp_path)


def test_seconds_are_summed_by_part_and_phase(tmp_path):
    def step(phase, rollout, learn, mfu, requests):
        work = {"mfu": mfu, "in_flight": {"requests": requests, "tokens": 9000}, "peak_memory_gb": requests / 32}
        return {"round": 1, "phase": phase, "time": {"rollout": rollout, "learn": learn}, **work}

    steps = [step("grm", 2.0, 1.0, 0.1, 32), step("policy", 5.0, 1.0, 0.1, 64), step("policy", 8.0, 3.0, 0.3, 48)]
    log = RunLog.read(write_run(tmp_path / "run", [round_line(0, 0.1, None, ())], steps))
    assert log.as_json()["time"] == {"grm": {"rollout": 2.0, "learn": 1.0}, "policy": {"rollout": 13.0, "learn": 4.0}}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(time_table(log))
    rows = [line.split() for line in console.export_text().splitlines()[2:] if line.strip() and "─" not in line]
    assert rows == [
        ["part", "GRM", "policy", "all", "share"],
        ["rollout", "2.0", "13.0", "15.0", "75.0%"],
        ["learn", "1.0", "4.0", "5.0", "25.0%"],
        ["learner's", "MFU", "10%", "25%"],
        ["requests", "at", "once", "32", "64"],
        ["their", "tokens", "9,000", "9,000"],
        ["peak", "memory,", "GB", "1.0", "2.0"],
    ]


def test_a_run_of_an_earlier_version_has_no_such_table(tmp_path):
    log = RunLog.read(write_run(tmp_path / "run", [round_line(0, 0.1, None, ())], [{"round": 1, "phase": "grm"}]))
    assert log.seconds_by_phase() == log.as_json()["time"] == {}
