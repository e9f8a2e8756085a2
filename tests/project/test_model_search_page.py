"""The recipe of docs/extend.md in which a role answers searches: it trains in small, and its run is opened again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aslfast.core import Question
from aslfast.index import BM25Index
from aslfast.prompts.builder import PromptBuilder
from aslfast.trainer.session import open_session, settings_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## The model as its own search engine")[2].partition("\n## ")[0]
SMALL = (
    "rounds=1 threads=1 data.eval_count=4 policy.steps=1 policy.prompts_per_step=4 policy.group_size=4 "
    "data.labelled_count=20 monitor.judge_probe=0"
)


def aslfast(folder, *words):
    line = [sys.executable, "-m", "aslfast", *words]
    done = subprocess.run(line, cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's recipe, and a small run of it."""
    place = tmp_path_factory.mktemp("page")
    (recipe,) = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    assert len(recipe.strip().splitlines()) <= 12
    (place / "own_search.toml").write_text(recipe, encoding="utf-8")
    small = [word for setting in SMALL.split() for word in ("--set", setting)]
    aslfast(place, "train", "--recipe", "own_search.toml", "--out", "run", "--quiet", *small)
    return place


def test_what_it_reads_is_what_the_role_said(folder):
    (step,) = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = pq.read_table(folder / "run" / "trajectories" / "round-001-policy.parquet").to_pylist()
    searches = [ids for row in rows for ids in row["passages"]]
    assert len(rows) == 16 and len(searches) > 0 and searches == [[]] * len(searches)
    assert step["prefix_cache"]["base"]["requests"] >= len(searches)
    own = sum(sum(row["loss_mask"]) for row in rows)
    assert own < step["sampled_tokens"] <= own + 32 * step["prefix_cache"]["base"]["requests"]
    assert {path.name for path in (folder / "run" / "adapters").iterdir()} == {"policy"}


def test_the_plan_says_so(folder):
    shown = aslfast(folder, "train", "--recipe", "own_search.toml", "--dry-run")
    assert "tools of the role policy: model:searcher" in shown
    # (5 - 1) calls of 3 queries
    assert "searches of the role policy: at most 12 turns of searcher a trajectory" in shown
    aslfast(folder, "plan", "--recipe", "own_search.toml", "--gpu", "80GB")


def test_a_run_is_opened_with_both_roles(folder):
    """The searcher is on the base here; with an adapter that was never trained it would be too."""
    config = settings_of(str(folder / "run"))
    index = BM25Index.open(folder / "run" / "lab" / "heldout.idx")
    task = PromptBuilder("compact").policy("t", Question("q", "what is the genre of x?"))
    session = open_session(str(folder / "run"), config, index, "policy")
    assert session.adapter_name == "policy" and session.rollout.roles["searcher"].adapter == "base"
    (played,) = session.play([task])
    assert all(turn.passages == () for turn in played.turns)
