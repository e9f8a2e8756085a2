"""What a base can do before any reinforcement learning, on fresh held-out worlds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aslfast import adapter, evaluate
from aslfast.config import load_recipe
from aslfast.environment import lab_environment, model_folder
from aslfast.rollout import Rollout, stable_seed
from aslfast.sampler.local import LocalSampler
from aslfast.tool import SearchTool
from aslfast.train import make_rollout, prepare_torch, run_all, tool_options


def measure_base(model_path: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Policy, GRM and generator of a bare model on the held-out world of each seed, as the tiny recipe samples."""
    return [_measure_world(model_path, seed) for seed in seeds]


def _measure_world(model_path: str, seed: int) -> dict[str, Any]:
    config = load_recipe("tiny", seed=seed)
    prepare_torch(config)
    model, tokenizer = adapter.load_base(model_folder(model_path))
    with tempfile.TemporaryDirectory() as folder:
        environment = lab_environment(config, Path(folder))
        sampler = LocalSampler(
            model, tokenizer, max_rows=config.sampler.max_rows, max_context=config.sampler.max_context
        )
        rollout = make_rollout(config, sampler, tokenizer, SearchTool(environment.eval_index, **tool_options(config)))
        return {"world": seed, **asyncio.run(_scores(rollout, environment, stable_seed(seed, "measure")))}


async def _scores(rollout: Rollout, environment: Any, seed: int) -> dict[str, Any]:
    scores = evaluate.policy_scores(await run_all(rollout, environment.policy_evals, seed, 256, adapters=False))
    scores |= evaluate.grm_scores(await run_all(rollout, environment.grm_evals, seed, 256, adapters=False))
    written = await run_all(rollout, environment.generator_evals, seed, 256, adapters=False)
    return scores | evaluate.generator_scores(written, environment.oracle)
