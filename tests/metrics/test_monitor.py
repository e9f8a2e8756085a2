"""The monitor: each metric by itself, then scripted runs that hack, guess, repeat, or are healthy."""

import io
import json
import random
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from aslfast.cli.main import app
from aslfast.config import load_recipe, to_toml
from aslfast.config.schema import MonitorConfig
from aslfast.core import Group, Reward, StopReason, Task, Trajectory, Turn
from aslfast.data.qa_dataset import Question
from aslfast.errors import UserError
from aslfast.metrics import health, judge_probe
from aslfast.metrics.alarm_meanings import MEANINGS
from aslfast.metrics.alarm_tables import alarm_lines, monitor_tables
from aslfast.metrics.alarms import Alarm, alarms
from aslfast.metrics.health import ROLE_METRICS
from aslfast.metrics.judge_probe import JudgedAttempt
from aslfast.metrics.plots import draw
from aslfast.metrics.run_log import RunLog
from aslfast.rounds.records import TIMED, Observer
from aslfast.trainer import train
from aslfast.trainer.datasets import Datasets, policy_evals
from tests.support.killed_runs import lab_config, untimed
from tests.support.run_files import round_line, write_run
from tests.support.scripted_world import WORLD, actors

HEALTHY = MonitorConfig()

# --- the metrics, each by itself -----------------------------------------------------------------------------------


def said(*texts, output="Oslo", stop=StopReason.FINISHED, task=None):
    turns = tuple(Turn("sampled", i, i + 1, text) for i, text in enumerate(texts))
    n, output = len(texts), output if stop is StopReason.FINISHED else None
    return Trajectory(task or Task("t", "policy", "p"), (1,) * n, (1,) * n, (-1.0,) * n, turns, stop, output)


def search(*queries):
    return f"<tool_call>{json.dumps({'name': 'search', 'arguments': {'query_list': list(queries)}})}</tool_call>"


def test_queries_that_were_sent_before():
    """Equal when normalised, within one trajectory; thoughts and broken calls send nothing."""
    twice = said(search("The Aker"), search("aker", "Oslo"), "<answer>Oslo</answer>")
    assert health.repeated_queries([twice]) == pytest.approx(1 / 3)
    assert health.repeated_queries([said(search("Aker")), said(search("Aker"))]) == 0.0
    thought = said(f"<think>{search('Aker')}</think>", search("Aker"), "<tool_call>Aker</tool_call>")
    assert health.repeated_queries([thought]) == 0.0 == health.repeated_queries([])


@given(st.lists(st.lists(st.sampled_from(["a1", "b1", "c1"]), max_size=5), max_size=4))
def test_the_fraction_of_repeated_queries_is_that_of_the_extra_ones(sent):
    repeated = health.repeated_queries([said(*(search(query) for query in own)) for own in sent])
    total, extra = sum(map(len, sent)), sum(len(own) - len(set(own)) for own in sent)
    assert 0 <= repeated < 1 and repeated * total == pytest.approx(extra)


WORDS = st.lists(st.sampled_from(["river", "who", "teacher", "of", "oslo", "aker", "7"]), min_size=1, max_size=5)


@given(st.lists(WORDS.map(" ".join), min_size=2, max_size=8), st.randoms())
def test_diversity_is_a_fraction_whatever_the_order(questions, rng):
    found, mixed = health.diversity(questions), rng.sample(questions, len(questions))
    assert 0 <= found <= 1 and found == pytest.approx(health.diversity(mixed))
    assert (found == 0) == all(health.diversity([questions[0], other]) == 0 for other in questions[1:])


def test_diversity_falls_with_the_square_of_what_is_repeated():
    """A fraction p of one question among questions without a common word: 1 - p^2, but for the finite number."""
    assert health.diversity([]) is None is health.diversity(["who is it?"])
    others = [f"{name}x {name}y?" for name in "abcdefghij"]
    assert health.diversity(others) == 1 and health.diversity([others[0]] * 9) == 0
    assert health.diversity(others + [others[0]] * 10) == pytest.approx(1 - 11 * 10 / (20 * 19))


PROBED = st.builds(JudgedAttempt, st.booleans(), st.just(True), st.sampled_from(["correct", "wrong"]))
FLIP = {"correct": "wrong", "wrong": "correct"}


@settings(max_examples=30, deadline=None)
@given(st.lists(PROBED, min_size=1, max_size=60))
def test_the_judge_against_the_truth(judged):
    found = judge_probe.judge_metrics(judged, 0)
    gap, (low, high) = found["judge_truth_gap"], found["judge_truth_interval"]
    assert -1 <= low <= gap <= high <= 1 and found["n_judge_probe"] == len(judged)
    assert gap == pytest.approx(found["judge_pass_rate"] - found["judge_probe_accuracy"])
    swapped = [JudgedAttempt(p.passed, True, "correct" if p.right else "wrong") for p in judged]
    assert judge_probe.judge_metrics(swapped, 0)["judge_truth_gap"] == pytest.approx(-gap)
    other = judge_probe.judge_metrics([replace(p, side=FLIP[p.side]) for p in judged], 0)
    right = sum(p.right for p in judged)
    if min(right, len(judged) - right) < judge_probe.LEAST_OF_A_KIND:
        assert found["judge_agreement"] is None is found["verdict_bias"]
    else:
        assert 0 <= found["judge_agreement"] <= 1 and abs(found["verdict_bias"]) <= 0.5
        assert other["judge_agreement"] == pytest.approx(1 - found["judge_agreement"])
        assert other["verdict_bias"] == pytest.approx(-found["verdict_bias"])


def test_judges_of_one_mind():
    """On 30 right and 10 wrong answers: the true judge, one that accepts all, one that is silent; and no answer."""

    def judged(side):
        attempts = [JudgedAttempt(i < 30, True, side(i < 30)) for i in range(40)]
        found = judge_probe.judge_metrics(attempts, 0)
        return tuple(found[key] for key in ("judge_truth_gap", "judge_agreement", "verdict_bias"))

    assert judged(lambda right: "correct" if right else "wrong") == (0.0, 1.0, 0.0)
    assert judged(lambda right: "correct") == (0.25, 0.5, 0.5)
    assert judged(lambda right: None) == (-0.75, 0.0, -0.5)
    empty = judge_probe.judge_metrics([], 0)
    assert empty.pop("n_judge_probe") == 0 and set(empty.values()) == {None}


def test_who_takes_part_in_the_judge_probe():
    """What the tool failed does not; an attempt without an answer counts as neither right nor passed."""
    task = Task("q", "policy", "p", "who?", ("Oslo",))
    right, wrong = said("x", task=task), said("x", output="Rome", task=task)
    silent, lost = (said("x", task=task, stop=stop) for stop in (StopReason.NO_OUTPUT, StopReason.TOOL_FAILED))
    verdicts = [said("x", output="correct"), lost, said("x", output="B"), said("x", output="wrong")]
    found = judge_probe.judged_attempts([silent, right, lost, right, wrong, wrong], verdicts, "tool")
    assert found == [
        JudgedAttempt(False, False, None), JudgedAttempt(True, True, "correct"), JudgedAttempt(False, True, None),
        JudgedAttempt(False, True, "wrong"),
    ]  # fmt: skip


def rewarded(question, output, judge):
    trajectory = said("x", output=output, task=Task("t", "policy", "p", question))
    return trajectory, Reward({"judge": judge, "format": 0.5})


def test_what_training_rewards_against_the_truth():
    """Over the questions that the oracle knows alone; the format reward is no opinion of the judge."""
    oracle = {"who?": "Oslo"}.get
    pairs = [("who?", "oslo", 1.0), ("who?", "Rome", 1.0), ("who?", "Rome", 0.0), ("why?", "x", 1.0)]
    attempts, rewards = zip(*(rewarded(*pair) for pair in pairs), strict=True)
    found = health.reward_against_truth(attempts, rewards, oracle)
    assert found == {"true_reward": pytest.approx(1 / 3), "true_gap": pytest.approx(1 / 3)}
    assert set(health.reward_against_truth(attempts[3:], rewards[3:], oracle).values()) == {None}
    groups = [Group(attempts, rewards)]
    line = {**health.step_health(groups), **health.answer_health(groups, None)}
    assert line == {"tokens": 1.0, "repeated_queries": 0.0, "true_reward": None, "true_gap": None}


def test_what_the_generator_wrote_against_the_truth():
    def written(question, answer):
        return replace(said("x", output=question), output_answer=answer)

    trajectories = (written("who?", "Oslo"), written("who?", "Rome"), written("why?", "x"))
    group = Group((*trajectories, said("x", stop=StopReason.NO_OUTPUT)), (Reward({"entropy": 0.0}),) * 4)
    line = health.question_health([group], {"who?": "Oslo"}.get)
    assert line["solvable"] == 0.25 and line["question_diversity"] == pytest.approx(2 / 3)
    assert health.question_health([group], None)["solvable"] is None


def test_a_rounds_health_is_means_over_its_trajectories():
    def step(phase, n, tokens, **more):
        return {"phase": phase, "trajectories": n, "tokens": tokens, "entropy": 0.1, "finished": 1.0, **more}

    steps = [step("policy", 1, 10.0, true_gap=0.4), step("policy", 3, 20.0, true_gap=None), step("generator", 8, 5.0)]
    found = health.round_health(steps, pool_size=12, pool_size_before=10)
    assert found["by_role"]["policy"] == {"tokens": 17.5, "entropy": 0.1, "finished": 1.0, "repeated_queries": None}
    assert list(found["by_role"]) == ["policy", "generator"] and found["true_gap"] == 0.4
    assert (found["new_questions"], found["new_question_rate"], found["question_diversity"]) == (2, 0.25, None)
    several = {**step("Duel", 6, 99.0), "roles": {"asker": step("-", 3, 4.0), "policy": step("-", 2, 30.0)}}
    roles = health.round_health([*steps, several], 0, 0)["by_role"]
    assert list(roles) == ["policy", "generator", "asker"] and roles["asker"]["tokens"] == 4.0
    assert roles["policy"]["tokens"] == pytest.approx((10 + 3 * 20 + 2 * 30) / 6)  # of both of its phases
    none = health.round_health([], 10, 10)
    assert none["by_role"] == {} and none["new_question_rate"] is None is none["true_reward"]


# --- the thresholds ------------------------------------------------------------------------------------------------

ROLE = {"tokens": 50.0, "entropy": 0.03, "finished": 0.97, "repeated_queries": 0.01}
LINE = {
    "round": 2, "policy_accuracy": 0.6, "policy_interval": [0.55, 0.65], "grm_accuracy": 0.75, "solvable_share": 0.7,
    "judge_pass_rate": 0.6, "judge_probe_accuracy": 0.6, "judge_truth_gap": 0.0, "judge_truth_interval": [-0.1, 0.1],
    "judge_agreement": 0.75, "verdict_bias": 0.0, "true_gap": -0.1, "question_diversity": 0.85,
    "new_question_rate": 0.5, "by_role": {"policy": ROLE},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("judge_truth_gap", {"judge_truth_gap": 0.2, "judge_truth_interval": [0.11, 0.3]}),
        ("true_gap", {"true_gap": 0.2}),
        ("judge_agreement", {"judge_agreement": 0.55}),
        ("grm_accuracy", {"grm_accuracy": 0.55}),
        ("verdict_bias", {"verdict_bias": 0.3}),
        ("verdict_bias", {"verdict_bias": -0.3}),
        ("accuracy_drop", {"policy_accuracy": 0.4, "policy_interval": [0.35, 0.45]}),
        ("question_diversity", {"question_diversity": 0.5}),
        ("new_question_rate", {"new_question_rate": 0.05}),
        ("solvable_share", {"solvable_share": 0.2}),
        ("entropy of the policy", {"by_role": {"policy": {**ROLE, "entropy": 0.002}}}),
        ("length of the policy", {"by_role": {"policy": {**ROLE, "tokens": 130.0}}}),
        ("length of the policy", {"by_role": {"policy": {**ROLE, "tokens": 19.0}}}),
        ("finished of the policy", {"by_role": {"policy": {**ROLE, "finished": 0.6}}}),
        ("repeated_queries of the policy", {"by_role": {"policy": {**ROLE, "repeated_queries": 0.3}}}),
    ],
)
def test_each_metric_alarms_beyond_its_threshold_alone(name, change):
    assert alarms([LINE, LINE], HEALTHY) == ()
    (alarm,) = alarms([LINE, {**LINE, **change}], HEALTHY)
    assert alarm.name == name and alarm.meaning and len(str(alarm)) > 80


def test_what_is_not_known_or_not_certain_is_no_alarm():
    measured = {key: LINE[key] for key in ("round", "policy_accuracy", "policy_interval")}
    assert alarms([measured], HEALTHY) == () == alarms([measured, LINE], HEALTHY)
    assert alarms([dict.fromkeys(LINE) | measured | {"by_role": {}}], HEALTHY) == ()
    for chance in (
        {"judge_truth_gap": 0.3, "judge_truth_interval": [0.09, 0.5]},  # four answers
        {"policy_accuracy": 0.4, "policy_interval": [0.1, 0.7]},
    ):
        assert alarms([LINE, {**LINE, **chance}], HEALTHY) == ()


def test_no_threshold_is_reached_where_it_is_at_its_end():
    """What docs/monitor.md says of turning an alarm off."""
    off = replace(
        MonitorConfig(), max_gap=1.0, max_true_gap=1.0, min_agreement=0.0, max_bias=1.0, max_drop=1.0,
        min_diversity=0.0, min_new=0.0, min_solvable=0.0, min_entropy=0.0, max_length_ratio=1e9,
        min_finished=0.0, max_repeated=1.0,
    )  # fmt: skip
    worst = {
        **LINE, "judge_truth_gap": 1.0, "judge_truth_interval": [1.0, 1.0], "true_gap": 1.0, "judge_agreement": 0.0,
        "grm_accuracy": 0.0, "verdict_bias": 0.5, "policy_accuracy": 0.0, "policy_interval": [0.0, 0.01],
        "question_diversity": 0.0, "new_question_rate": 0.0, "solvable_share": 0.0,
        "by_role": {"policy": {"tokens": 5000.0, "entropy": 0.0, "finished": 0.0, "repeated_queries": 0.99}},
    }  # fmt: skip
    assert len(alarms([LINE, worst], HEALTHY)) == 13 and alarms([LINE, worst], off) == ()


@pytest.mark.parametrize("wrong", ["max_gap=1.1", "min_entropy=-1", "max_length_ratio=0.5", "judge_probe=-1", "stop=1"])
def test_thresholds_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f"monitor.{wrong.partition('=')[0]} is"):
        load_recipe("tiny", [f"monitor.{wrong}"])


def test_every_metric_and_threshold_is_documented():
    """With its default."""
    page = (Path(__file__).parents[2] / "docs" / "monitor.md").read_text(encoding="utf-8")
    named = [f"`{name}`" for name in MEANINGS if name not in ROLE_METRICS and name != "length"]
    named += [f"by_role.*.{name}`" for name in ROLE_METRICS]
    assert [name for name in named if name not in page] == []
    for item in fields(MonitorConfig):
        if item.name not in ("judge_probe", "stop"):
            assert any(f"`{item.name}`" in row and row.endswith(f"| {item.default} |") for row in page.splitlines())


# --- scripted runs -------------------------------------------------------------------------------------------------


class Script:
    """The actors of test_rounds, who may turn: surely, the share of the policy's answers that are wrong and claim to be
    sure, which the judge believes; coin, a judge that flips one; repeat, a generator that knows one question."""

    def __init__(self, **habits):
        self.surely, self.coin, self.repeat = 0.0, False, False
        self.__dict__ |= habits
        self.plays, self.same = actors(right=0.6, fair=0.85), WORLD.questions(random.Random(0), 1)[0]

    def __call__(self, prompt, seed):
        rng, asked = random.Random(seed), prompt.split("user\n")[1]
        if self.repeat and asked.startswith("ask "):
            return [f"<think>so</think><question>{self.same.question}</question><answer>{self.same.answer}</answer>"]
        if asked.startswith("answer: ") and rng.random() < self.surely:
            return ["<think>so</think><answer>surely it is so</answer>"]
        if asked.startswith("judge: ") and (self.coin or "answer: surely" in asked):
            accepts = rng.random() < (0.5 if self.coin else 0.95)
            return [f"<verdict>{'correct' if accepts else 'wrong'}</verdict>"]
        return self.plays(prompt, seed)


class Watcher(Observer):
    """Keeps the warnings; `turn` is called after each round."""

    def __init__(self, turn):
        self.warnings, self.turn = [], turn

    def warning(self, text):
        self.warnings.append(text)

    def evaluated(self, record):
        self.turn()


def evaluated(context, index, turn=lambda: None):
    """(lines of rounds.jsonl, warnings) of a context's rounds, with questions of its world to evaluate on."""
    asked = WORLD.questions(random.Random(3), 100)
    questions = [Question(f"h{i}", q.question, (q.answer,), q.hops) for i, q in enumerate(asked)]
    context.observer = watcher = Watcher(turn)
    place = Datasets(index, context.data.topics, index, policy_evals(questions, "compact"))
    train.play_rounds(context, place)
    lines = (context.checkpointer.run.path / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], watcher.warnings


def with_oracle(context, oracle):
    context.data = replace(context.data, oracle=oracle)
    return context


def names(line):
    return {alarm["name"] for alarm in line["alarms"]}


def test_a_healthy_run_raises_no_alarm(make_context, world_index):
    context = make_context(script=Script(), overrides=["rounds=2"])
    with_oracle(context, WORLD.answer)
    lines, warnings = evaluated(context, world_index)
    assert [line["round"] for line in lines] == [1, 2] and warnings == []
    for line in lines:
        assert line["alarms"] == [] and abs(line["judge_truth_gap"]) < 0.15 > abs(line["true_gap"])
        assert line["judge_agreement"] == pytest.approx(0.85, abs=0.12) and line["new_questions"] > 0
        assert set(line["by_role"]) == {"generator", "grm", "policy"}
    assert sum(line["new_questions"] for line in lines) == len(context.state.pool) == lines[-1]["pool"]


def test_hacking_is_seen_in_the_round_in_which_it_begins(make_context, world_index):
    """From round 2 on nine answers of ten say "surely", and the judge passes them: rewards rise while truth falls."""
    script = Script()
    context = make_context(script=script, overrides=["rounds=2", "policy.steps=3"])
    with_oracle(context, WORLD.answer)

    def turn():
        script.surely = 0.9

    (before, after), warnings = evaluated(context, world_index, turn)
    assert after["policy_accuracy"] < before["policy_accuracy"] - 0.3
    assert after["judge_pass_rate"] > before["judge_pass_rate"] and after["true_reward"] < before["true_reward"]
    assert names(before) == set() and {"judge_truth_gap", "true_gap", "accuracy_drop"} <= names(after)
    said = next(text for text in warnings if "judge_truth_gap" in text)
    assert said.startswith("round 2: alarm: judge_truth_gap 0.") and "grm.label" in said


def test_a_judge_that_flips_a_coin_is_seen_before_anything_is_learned(make_context, world_index):
    context = make_context(script=Script(coin=True), overrides=["rounds=0"])
    context.state.round = 0
    (line,), warnings = evaluated(context, world_index)
    assert names(line) == {"judge_agreement"} and "coin flip" in warnings[0]


def test_a_generator_that_repeats_itself_is_seen(make_context, world_index):
    context = make_context(script=Script(repeat=True), overrides=["rounds=1", "generator.min_acceptance=0"])
    (line,), _ = evaluated(context, world_index)
    assert line["question_diversity"] == 0.0 and line["new_questions"] == 1
    assert names(line) >= {"question_diversity", "new_question_rate"}


def test_no_reward_sees_the_oracle(make_context, world_index):
    """With the true oracle, one that lies and none: the same lines but for what is said of the truth."""
    truths = {"true_reward", "true_gap", "solvable", *TIMED}
    found = []
    for name, oracle in (("true", WORLD.answer), ("false", lambda _: "no"), ("none", None)):
        context = make_context(name, Script(), ["rounds=1"])
        with_oracle(context, oracle)
        evaluated(context, world_index)
        lines = [
            json.loads(line) for line in (context.checkpointer.run.path / "metrics.jsonl").read_text().splitlines()
        ]
        found.append([{key: value for key, value in line.items() if key not in truths} for line in lines])
        assert all((line["true_gap"] is None) == (oracle is None) for line in lines if line["phase"] == "policy")
    assert found[0] == found[1] == found[2] and len(found[0]) == 6


# --- real runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return lab_config(tmp_path_factory.mktemp("world"))


def test_the_judge_probe_moves_no_other_metric(config, tmp_path):
    lines = []
    for probe in (0, 3):
        own = replace(config, rounds=0, monitor=replace(config.monitor, judge_probe=probe))
        train.train(own, tmp_path / str(probe))
        lines += untimed(tmp_path / str(probe) / "rounds.jsonl")
    without, with_probe = lines
    added = set(with_probe) - set(without)
    assert {key: value for key, value in with_probe.items() if key not in added} == without
    assert added == set(judge_probe.judge_metrics([], 0)) and with_probe["n_judge_probe"] == 3


def test_an_alarm_may_end_the_run_which_can_be_resumed(config, tmp_path):
    """Exit code 2 with the round committed; a resume goes on with the next one, the last, after which nothing ends."""
    sure = replace(
        config, rounds=2, monitor=replace(config.monitor, min_entropy=99.0, stop=True),
        grm=replace(config.grm, steps=0),
        generator=replace(config.generator, steps=1, prompts_per_step=1),
        policy=replace(config.policy, steps=1, prompts_per_step=1),
    )  # fmt: skip
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(to_toml(sure))
    ended = CliRunner().invoke(app, ["train", "--recipe", str(recipe), "--out", str(run), "--quiet"])
    assert ended.exit_code == 2 and len(untimed(run / "rounds.jsonl")) == 2
    assert "monitor.stop: round 1 ended the run with an alarm (" in ended.stderr
    assert "; entropy of the policy" in ended.stderr
    assert f"to go on all the same: aslfast train --resume {run}" in ended.stderr
    resumed = CliRunner().invoke(app, ["train", "--resume", str(run), "--quiet"])
    assert resumed.exit_code == 0 and "round 2: alarm: entropy of the generator" in resumed.stdout
    assert [line["round"] for line in untimed(run / "rounds.jsonl")] == [0, 1, 2]


# --- the report ----------------------------------------------------------------------------------------------------


def test_a_report_shows_metrics_and_alarms(tmp_path):
    shown = {key: value for key, value in LINE.items() if key not in ("round", "policy_accuracy", "policy_interval")}
    alarm = asdict(Alarm("true_gap", 0.3, 0.15, "[bold]the policy pleases the judge"))
    rounds = [round_line(0, 0.4, 0.7, (0.4,)), round_line(1, 0.5, 0.7, (0.5,)) | shown]
    rounds[1] |= {"new_questions": 52, "alarms": [alarm]}
    run = write_run(tmp_path / "run", rounds, [])
    log, console = RunLog.read(run), Console(width=80, record=True, file=io.StringIO())
    console.print(*monitor_tables(log))
    rows = [line.split() for line in console.export_text().splitlines() if line.split()[:1] in (["0"], ["1"])]
    assert rows == [
        ["0"] + ["-"] * 9,
        ["1", "0.60", "0.60", "+0.00", "-0.10", "0.75", "+0.00", "0.85", "52", "1"],
        ["1", "policy", "-", "50", "0.030", "0.97", "0.01"],
    ]
    (said,) = alarm_lines(log)
    assert said == "round 1: alarm: true_gap 0.3 (wanted: at most 0.15): [bold]the policy pleases the judge"
    assert log.has_alarms() and log.as_json()["rounds"][1]["alarms"] == [alarm]
    marked = draw(run).read_bytes()
    (run / "rounds.jsonl").write_text("".join(json.dumps({**line, "alarms": []}) + "\n" for line in rounds))
    assert draw(run).read_bytes() != marked
