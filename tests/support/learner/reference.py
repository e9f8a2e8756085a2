"""Reference computations for the learner's tests: one trajectory at a time, without packing or a fused head."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor

from aslfast.config.roles import ROLES
from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.core import Question, Trajectory
from aslfast.index import BM25Index
from aslfast.learner.batch import loss_positions
from aslfast.learner.learner import Learner
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.rollout.multi_turn import Rollout
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.search_tool import SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.sampler.local.sampler import LocalSampler

TEMPERATURE = 0.7
EPS = torch.finfo(torch.float32).eps


def learner_of(model: PeftModel, loss: LossConfig | None = None, **options) -> Learner:
    return Learner(model, LearnerConfig(**{"learning_rate": 1e-2, **options}), loss or LossConfig(), TEMPERATURE, ROLES)


def state(model: PeftModel) -> dict[str, Tensor]:
    """Return every weight, cloned."""
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def moved(model: PeftModel, before: dict[str, Tensor]) -> set[str]:
    """Return the names of the weights that differ from `before`."""
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def spoken(trajectories: Sequence[Trajectory]) -> list[int]:
    """Return the indices of the trajectories with a sampled token."""
    return [i for i, t in enumerate(trajectories) if t.n_sampled]


def naive_logprobs(model, trajectories: Sequence[Trajectory], temperature: float = TEMPERATURE) -> Tensor:
    """Return the loss tokens' log-probs by a full forward pass and softmax in the model's dtype, as float64."""
    found = []
    with torch.no_grad():
        for t in trajectories:
            logits_TV = model(input_ids=torch.tensor([t.token_ids])).logits[0]
            logp_TV = (logits_TV / temperature).log_softmax(-1)
            found += [logp_TV[i - 1, t.token_ids[i]] for i in range(1, len(t.token_ids)) if t.loss_mask[i]]
    return torch.stack(found).double()


def at_loss_tokens(trajectory: Trajectory, logprobs: Sequence[float]) -> tuple[float, ...]:
    """Return the log-probs of the sampled tokens at their positions, 0.0 elsewhere."""
    values = iter(logprobs)
    return tuple(next(values) if flag else 0.0 for flag in trajectory.loss_mask)


def off_by(trajectories: Sequence[Trajectory], model: PeftModel, noise: float) -> tuple[list[Trajectory], Tensor]:
    """Return the trajectories with the policy's log-probs plus seeded noise as the sampler's; and the noise."""
    model.set_adapter("policy")
    g = torch.Generator().manual_seed(0)
    found, shifts = [], []
    for t in trajectories:
        logp = naive_logprobs(model, [t]) if t.n_sampled else torch.empty(0)
        shift = noise * torch.randn(len(logp), generator=g, dtype=torch.float64)
        found.append(dataclasses.replace(t, logprobs=at_loss_tokens(t, (logp + shift).tolist())))
        shifts.append(shift)
    return found, torch.cat(shifts)


def real_trajectories(
    tokenizer, model: PeftModel, index: BM25Index, role: str = "policy", samples: int = 4,
    sampler: LocalSampler | None = None,
) -> list[Trajectory]:  # fmt: skip
    """Sample trajectories of one task with the local sampler."""
    sampler = sampler or LocalSampler(model, tokenizer, max_running_requests=4, max_context=512)
    rollout = Rollout(sampler, ToolExecutor(SearchTool(index, 1)), Chat(tokenizer), Limits(3, 24, 512), TEMPERATURE)
    task = PromptBuilder("compact").policy("t", Question("t", "Which river runs through Mira's birthplace?"))

    async def run():
        return await asyncio.gather(*(rollout.run(task, i, 1, role) for i in range(samples)))

    return list(asyncio.run(run()))


def naive_gradients(
    model: PeftModel, trajectories: Sequence[Trajectory], advantage: Sequence[float]
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and the gradient of every weight of the policy's adapter, by name: token by token PPO."""
    model.set_adapter("policy")
    total, loss_tokens = 0.0, sum(len(loss_positions(t)) for t in trajectories)
    for t, a in zip(trajectories, advantage, strict=True):
        at = torch.from_numpy(loss_positions(t))
        if not len(at):
            continue
        ids, old = torch.tensor(t.token_ids), torch.tensor(t.logprobs)[at]
        logp_TV = (model(input_ids=ids[None]).logits[0] / TEMPERATURE).log_softmax(-1)
        ratio = (logp_TV[at - 1, ids[at]] - old).exp()
        loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a).sum() / loss_tokens
        loss.backward()
        total += float(loss.detach())
    return total, take_gradients(model)


def take_gradients(model: PeftModel, role: str = "policy") -> dict[str, Tensor]:
    """Return the gradients of a role's weights, by name, and clear them."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            found[name], weight.grad = weight.grad.double(), None
    assert found and all(f".{role}." in name for name in found)
    return found


def learner_gradients(
    model: PeftModel, trajectories: Sequence[Trajectory], advantage: Sequence[float], loss: LossConfig | None = None,
    **options,
) -> tuple[float, dict[str, Tensor]]:  # fmt: skip
    """Return the loss and the gradients that the learner computes."""
    learner = learner_of(model, loss, **options)
    model.set_adapter("policy")
    normalizer = float(sum(len(loss_positions(t)) for t in trajectories))
    sums = learner.accumulate(trajectories, advantage, normalizer, with_kl=False)
    return sums.loss, take_gradients(model)


def assert_close(
    found: dict[str, Tensor], exact: dict[str, Tensor], own: dict[str, Tensor], roundings: int = 64
) -> None:
    """Assert that each weight's error is at most twice `own`'s plus some roundings at the size of the whole."""
    assert found.keys() == exact.keys() == own.keys()
    size = max(float(g.abs().max()) for g in exact.values())
    for name, gradient in exact.items():
        bound = 2 * float((own[name] - gradient).abs().max()) + roundings * EPS * size
        assert float((found[name] - gradient).abs().max()) <= bound, name
