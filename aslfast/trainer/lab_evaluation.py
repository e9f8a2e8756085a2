"""Evaluation of a bare base model, before any reinforcement learning, on fresh held-out worlds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from aslfast.config import load_recipe
from aslfast.metrics.scoring import Scores
from aslfast.models.base_model import load_base, model_folder
from aslfast.rollout.multi_turn import stable_seed
from aslfast.trainer.build import build_rollout, build_sampler, build_tools, prepare_torch
from aslfast.trainer.evaluation import Evaluation, ground_truth_scores
from aslfast.trainer.lab_datasets import lab_datasets


def evaluate_base(model_path: str, seeds: Sequence[int], recipe: str = "tiny") -> list[Scores]:
    """Return the scores of the three roles on the held-out world of each seed, sampled as in the recipe."""
    return [_evaluate_world(model_path, seed, recipe) for seed in seeds]


def _evaluate_world(model_path: str, seed: int, recipe: str) -> Scores:
    config = load_recipe(recipe, seed=seed)
    prepare_torch(config)
    model, tokenizer = load_base(model_folder(model_path))
    with tempfile.TemporaryDirectory() as folder:
        datasets = lab_datasets(config, Path(folder))
        sampler = build_sampler(config, model, tokenizer)
        rollout = build_rollout(config, sampler, tokenizer, build_tools(config, datasets.eval_index))
        max_concurrent = 2 * config.sampler.max_running_requests
        evaluation = Evaluation(rollout, stable_seed(seed, "measure"), max_concurrent, adapters=False)
        scores = asyncio.run(ground_truth_scores(evaluation, datasets))
    return {"world": seed, **scores}
