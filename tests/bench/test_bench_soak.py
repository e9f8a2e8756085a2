"""The soak's limits find what grows, in rows made by hand; and a small run writes every row."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aslfast.config import to_toml
from bench.round.bench_soak import configured
from bench.round.soak_limits import SoakRow, limits
from tests.support.killed_runs import N_STEPS, lab_config

ROOT = Path(__file__).resolve().parents[2]


def healthy(n=80):
    """As a real run's: memory settles in the first quarter, steps of different length, noise."""
    rng = random.Random(0)
    tokens = [rng.randrange(2_000, 9_000) for _ in range(n)]
    return [
        SoakRow(
            ("generator", "policy")[i % 2],
            900 + min(i, 20) * 5 + rng.random() * 8,
            20,
            3,
            t * rng.uniform(9, 11) / 1e5,
            t,
        )
        for i, t in enumerate(tokens)
    ]


def broken(rows):
    return {name for name, values in limits(rows).items() if not values["kept"]}


def test_a_healthy_run_keeps_all_limits():
    assert broken(healthy()) == set()


@pytest.mark.parametrize(
    ("worse", "found"),
    [
        (lambda i, row: replace(row, rss_mib=row.rss_mib + 2 * i), {"memory_mib"}),
        (lambda i, row: replace(row, files=row.files + i // 20), {"files"}),
        (lambda i, row: replace(row, threads=row.threads + i // 40), {"threads"}),
        (
            lambda i, row: replace(row, seconds=row.seconds * (1 + i / 80 * (row.phase == "policy"))),
            {"policy_us_per_token"},
        ),
    ],
)
def test_what_grows_is_found(worse, found):
    assert broken([worse(i, row) for i, row in enumerate(healthy())]) == found


def test_as_many_rounds_as_give_the_steps():
    assert configured("tiny", 500, ["threads=1"]).rounds == 32  # of 3 + 5 + 8 steps
    assert configured("tiny", 513, ["threads=1"]).rounds == 33


def test_a_small_one_writes_a_row_a_step(tmp_path):
    (tmp_path / "recipe.toml").write_text(to_toml(lab_config(tmp_path)))
    recipe = ("--recipe", tmp_path / "recipe.toml", "--steps", str(2 * N_STEPS))
    command = [
        sys.executable,
        "-m",
        "bench.round.bench_soak",
        *recipe,
        "--allow-dirty",
        "--out",
        tmp_path / "soak.json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert (tmp_path / "soak.json").exists(), done.stderr[-2000:]
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["steps"] == len(result["rows"]) >= 8 and result["updates"] > 0
    row = dict(zip(result["columns"], result["rows"][-1], strict=True))
    assert row["rss_mib"] > 100 and row["files"] > 3 and row["seconds"] > 0 and row["tokens"] > 0
    assert done.returncode == (not all(limit["kept"] for limit in result["limits"].values()))
