"""The commands on a recipe with roles and a phase of one's own: they count, name and play these, and no others."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from aslfast.cli.main import app
from aslfast.cli.rollout import Overrides, overridden, tasks_of
from aslfast.config import load_recipe, to_toml
from aslfast.core import Question
from aslfast.errors import UserError
from aslfast.index import BM25Index
from aslfast.trainer.preflight.dry_run import describe, evaluation_trajectories, total_trajectories
from tests.support.tiny_models import PASSAGES

OWN = [
    'phases=["my_game:Duel"]', "own_phase.Duel.steps=2", "own_phase.Duel.tasks_per_step=3", "rounds=1",
    "data.eval_count=10", 'roles.asker.output=["question", "answer"]', 'roles.asker.prompt="ask: {topic}"',
    'roles.policy.prompt="answer: {question}"', "roles.policy.temperature=0.5", 'roles.checker.adapter="base"',
    'roles.checker.prompt="{answer}? {question}"', 'roles.rival.adapter="policy"', 'roles.rival.prompt="{one} {two}"',
]  # fmt: skip
QUESTION = Question("q", "Who\nlives here?", ("Ada", "A."), 2)


@pytest.fixture
def run(tmp_path):
    """A folder that commands take for a run without an adapter yet."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(to_toml(load_recipe("tiny", OWN)))
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": QUESTION.text, "answers": ["Ada"]}) + "\n")
    BM25Index.build(PASSAGES, tmp_path / "idx", threads=1)
    return folder


def command(run, name, *more):
    place = run.parent
    line = f"{name} --model {run} --index {place}/idx --data {place}/q.jsonl --out {place}/new -q"
    return CliRunner().invoke(app, [*line.split(), *more])


def test_the_plan_counts_what_the_recipe_has():
    config = load_recipe("tiny", OWN)
    assert evaluation_trajectories(config) == 10  # no judge, no generator
    assert total_trajectories(config) == 2 * 3 * 4 + 2 * 10
    told = describe(config)
    assert "2 LoRA adapters" in told and "(at least 12 trajectories a step)" in told and "at least 44 traj" in told
    assert "roles: asker, policy, checker (the base), rival (the adapter of policy)" in told
    shipped = describe(load_recipe("tiny"))
    assert "roles:" not in shipped and "at least" not in shipped
    assert evaluation_trajectories(load_recipe("tiny")) == 100 + 300 + 300 + 150


def test_a_question_is_put_into_the_prompt_of_a_role_of_ones_own():
    config = load_recipe("tiny", OWN)
    (asker,) = tasks_of("asker", [QUESTION], config)
    assert (asker.role, asker.prompt, asker.references) == ("asker", "ask: Who lives here?", ("Ada", "A."))
    assert tasks_of("checker", [QUESTION], config)[0].prompt == "Ada? Who lives here?"
    with pytest.raises(UserError, match=r"roles\.rival\.prompt has one, two; its phase alone knows what to ask"):
        tasks_of("rival", [QUESTION], config)
    judges = load_recipe("tiny", ["grm.folds=2"])
    assert [tasks_of(role, [QUESTION], judges)[0].role for role in judges.all_roles] == list(judges.all_roles)


def test_an_option_goes_before_what_a_role_has_of_its_own(run):
    assert overridden(str(run), Overrides()).roles["policy"].temperature == 0.5
    config = overridden(str(run), Overrides(temperature=0.0))
    assert (config.roles["policy"].temperature, config.sampler.temperature) == (0.0, 0.0)


def test_rollout_plays_a_role_of_ones_own(run):
    done = command(run, "rollout", "--role", "checker")
    assert done.exit_code == 0, done.stderr
    (row,) = pq.read_table(run.parent / "new").to_pylist()
    assert row["role"] == "checker" and "Ada? Who lives here?" in row["conversation"]


@pytest.mark.parametrize(
    ("name", "role", "known"),
    [
        ("rollout", "generator", "asker, policy, checker, rival"),
        ("demos", "grm", "policy"),
        ("demos", "asker", "policy"),
    ],
)
def test_a_role_that_the_recipe_lacks_is_refused(run, name, role, known):
    refused = command(run, name, "--role", role)
    assert refused.exit_code == 2 and f"--role {role}: no such role; use one of {known}" in refused.stderr
    assert not (run.parent / "new").exists()


def test_the_doctor_checks_the_adapters_of_the_recipe(run):
    done = CliRunner().invoke(app, ["doctor", "--sampler", "local", "--model", str(run), "--json"])
    report = json.loads(done.stdout)
    assert report["sampler"]["logprob_difference"].keys() == {"asker", "policy"}
    assert all(line["ok"] for line in report["lines"] if line["name"].startswith(("log-probs", "learner", "reuse")))
