"""docs/field.md: its table is that of the recipes, and its variant of a system trains as it is written."""

import json
import re
from pathlib import Path

from aslfast.config import about_recipe, load_recipe, recipe_names
from aslfast.trainer import train
from bench.league.table import page

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "field.md").read_text(encoding="utf-8")
SYSTEMS = [
    "ssp", "ssrl", "reseek", "re-searcher", "convsearch-r1", "fathom", "spear", "dr-zero", "mae", "spiral", "pasodoble",
    "soar", "comas", "eva", "spc", "seif", "b-star", "knowrl", "nft", "score", "exit", "spice", "search-r1",
    "absolute-zero", "r-zero", "spo", "sppo", "ssr-zero", "act", "self-redteam", "sage", "agent-r",
]  # fmt: skip
SMALL = [
    "rounds=1", "threads=1", "data.eval_count=2", "lora.rank=4", "sampler.max_turns=3", "generator.steps=1",
    "generator.prompts_per_step=2", "generator.group_size=3", "policy.steps=1", "policy.prompts_per_step=2",
]  # fmt: skip


def test_the_page_has_every_system_as_its_recipe_tells():
    assert page(TEXT, None) == TEXT
    assert set(SYSTEMS) <= set(recipe_names()) and {f"{name}-tiny" for name in SYSTEMS} <= set(recipe_names())
    assert [name for name in SYSTEMS if f"| `{name}` |" not in TEXT] == []


def test_a_newcomers_variant_trains(tmp_path):
    (recipe,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert len(recipe.splitlines()) <= 10
    (tmp_path / "hard.toml").write_text(recipe, encoding="utf-8")
    name = str(tmp_path / "hard.toml")
    assert (load_recipe("r-zero-tiny").generator.reward, load_recipe(name).generator.reward) == ("r_zero", "dr_zero")
    assert about_recipe(name).paper == "arXiv 2508.05004"
    train.train(load_recipe(name, SMALL), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["phase"] == "generator" and "difficulty" in lines[0]["reward_parts"]
