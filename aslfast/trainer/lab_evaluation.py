"""What a base can do before any reinforcement learning, on fresh held-out worlds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aslfast.config import load_recipe
from aslfast.models.base_model import load_base, model_folder
from aslfast.rollout.multi_turn import stable_seed
from aslfast.trainer.build import build_rollout, build_sampler, build_search_tool, prepare_torch
from aslfast.trainer.datasets import lab_datasets
from aslfast.trainer.evaluation import Evaluation, ground_truth_scores


def measure_base(model_path: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Policy, GRM and generator of a bare model on the held-out world of each seed, as the tiny recipe samples."""
    return [_measure_world(model_path, seed) for seed in seeds]


def _measure_world(model_path: str, seed: int) -> dict[str, Any]:
    config = load_recipe("tiny", seed=seed)
    prepare_torch(config)
    model, tokenizer = load_base(model_folder(model_path))
    with tempfile.TemporaryDirectory() as folder:
        datasets = lab_datasets(config, Path(folder))
        sampler = build_sampler(config, model, tokenizer)
        rollout = build_rollout(config, sampler, tokenizer, build_search_tool(config, datasets.eval_index))
        seed_of_samples, limit = stable_seed(seed, "measure"), 2 * config.sampler.max_running_requests
        evaluation = Evaluation(rollout, seed_of_samples, limit, adapters=False)
        scores = asyncio.run(ground_truth_scores(evaluation, datasets))
    return {"world": seed, **scores}
