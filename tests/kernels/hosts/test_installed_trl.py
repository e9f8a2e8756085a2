"""TRL's GRPOTrainer, stock and patched, a training step each on the CPU; skipped where TRL is not installed."""

from typing import NamedTuple

import pytest
import torch

from aslfast_kernels import patch_trl
from aslfast_kernels.integrations import trl as patched
from tests.support.kernels import host_contracts
from tests.support.tiny_architectures import tiny_architecture

pytest.importorskip("trl")
import datasets
import peft
import trl.trainer.utils as utils
from trl import GRPOConfig, GRPOTrainer

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
CASES = {
    "plain": ("qwen2", {}, {}),
    "tied": ("qwen2", {"tie_word_embeddings": True}, {}),
    "softcap": ("gemma2", {"final_logit_softcapping": 2.0}, {}),
    "scale": ("granite", {}, {}),
    "bias": ("phi", {}, {}),
    "LoRA": ("qwen2", {}, {"beta": 0.05}),
    "checkpointing": ("qwen2", {}, {"gradient_checkpointing": True}),
    "entropy bonus": ("qwen2", {}, {"entropy_coef": 0.1}),
    "LoRA, entropy bonus": ("qwen2", {}, {"entropy_coef": 0.1}),
    "top entropy": ("qwen2", {}, {"top_entropy_quantile": 0.5}),
    "dr_grpo": ("qwen2", {}, {"loss_type": "dr_grpo"}),
    "GSPO": ("qwen2", {}, {"importance_sampling_level": "sequence"}),
}


class Step(NamedTuple):
    """What one training step did."""

    gradient: torch.Tensor  # plain descent at rate 1: what was taken off the parameters
    log: dict
    calls: int  # of the patched head
    completions: list[list[int]]


def reward(completion_ids, **_):
    return [sum(ids) % 7 / 7 for ids in completion_ids]


@pytest.fixture
def run(tokenizer, tmp_path, monkeypatch):
    tokenizer.padding_side = "left"

    def step(name, **more):
        kind, model, options = CASES[name]
        torch.manual_seed(0)
        settings = {
            "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "num_generations": 4, "temperature": 0.7,
            "max_completion_length": 8, "max_steps": 1, "learning_rate": 1.0, "optim": "sgd", "max_grad_norm": 0.0,
            "lr_scheduler_type": "constant", "report_to": "none", "save_strategy": "no", "logging_steps": 1,
            "use_cpu": True, "bf16": False, "seed": 3, "disable_tqdm": True, "gradient_checkpointing": False,
        } | options | more  # fmt: skip
        seen = []
        trainer = GRPOTrainer(
            tiny_architecture(kind, vocab_size=len(tokenizer), **model),
            lambda completion_ids, **_: seen.extend(completion_ids) or reward(completion_ids),
            args=GRPOConfig(**settings),
            train_dataset=datasets.Dataset.from_dict({"prompt": ["What is the capital of Norway?", "And of Peru?"]}),
            processing_class=tokenizer, peft_config=peft.LoraConfig(**LORA) if name.startswith("LoRA") else None,
        )  # fmt: skip
        calls, apply = [], patched.FusedHead.apply
        monkeypatch.setattr(patched.FusedHead, "apply", lambda *a, **k: calls.append(1) or apply(*a, **k))
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.train()
        after = [p.detach().to(q) for p, q in zip(trainer.model.parameters(), before, strict=True)]
        monkeypatch.undo()
        taken = torch.cat([(p - q).flatten() for p, q in zip(before, after, strict=True)])
        return Step(taken, trainer.state.log_history[0], len(calls), seen)

    return step


@pytest.mark.parametrize("name", list(CASES))
def test_a_patched_step_is_the_stock_step(name, run):
    """Loss, entropy and gradient within 1e-5 of the largest: a parameter of size 1 changes in steps of 1e-7."""
    stock = run(name)
    with patch_trl():
        ours = run(name)
    allowed, largest = 1e-5, float(stock.gradient.abs().max())
    assert stock.calls == 0 and ours.calls == 1 + ("beta" in CASES[name][2])
    assert largest > 1e-3 and float((ours.gradient - stock.gradient).abs().max()) <= allowed * largest
    assert ours.completions == stock.completions
    assert ours.log["entropy"] == pytest.approx(stock.log["entropy"], rel=allowed) and stock.log["entropy"] > 1.0
    assert ours.log["loss"] == pytest.approx(stock.log["loss"], rel=allowed, abs=allowed)


def test_bf16_autocast_is_within_trls_own_error(run):
    """Against TRL in float32, where all three sampled the same completions; root mean squares over seeds.

    What the two share weighs most: the backbone in bf16 (with a head in float32 the gradient's error is 2% less). So
    one seed tells nothing: the ratio of the two errors has a spread of 4.5%, and 3% is two standard errors of ten.
    """
    gradients, entropies = [], []
    for seed in range(3, 19):
        exact, stock = run("plain", seed=seed), run("plain", bf16=True, seed=seed)
        with patch_trl():
            ours = run("plain", bf16=True, seed=seed)
        assert ours.calls == 1
        if ours.completions == stock.completions == exact.completions:
            size = exact.gradient.norm()
            gradients.append([float((one.gradient - exact.gradient).norm() / size) for one in (ours, stock)])
            entropies.append([one.log["entropy"] - exact.log["entropy"] for one in (ours, stock)])
            assert ours.log["loss"] == pytest.approx(exact.log["loss"], abs=1e-5)
    ours, stock = torch.tensor(gradients).square().mean(0).sqrt().tolist()
    assert len(gradients) >= 8 and stock > 0.01 and ours <= 1.03 * stock
    ours, stock = torch.tensor(entropies).square().mean(0).sqrt().tolist()
    assert 1e-4 < ours <= 1.5 * stock  # ten numbers of either sign: their ratio is known to a third


def test_an_adapter_on_the_head_is_refused(tokenizer, tmp_path):
    """By TRL, patched or not."""
    arguments = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "lm_head"])
    model = tiny_architecture("qwen2", vocab_size=len(tokenizer))
    with patch_trl(), pytest.raises(ValueError, match="lm_head"):
        GRPOTrainer(model, reward, args=arguments, processing_class=tokenizer, peft_config=config)


def test_the_restated_contract_is_trls():
    """Parameters by patch_trl's own check; values of every case of the table by TRL's own function."""
    with patch_trl():
        pass
    from inspect import signature

    assert (
        signature(host_contracts.StockHead.forward).parameters.keys()
        == signature(utils._ChunkedLogProbFunction.forward).parameters.keys()
    )
    for case in host_contracts.HEAD_CASES:
        g = torch.Generator().manual_seed(0)
        hidden, weight, bias = (torch.randn(*size, generator=g).double() for size in ((5, 8), (31, 8), (31,)))
        target = torch.randint(31, (5,), generator=g)
        arguments = (hidden, weight, bias if case.bias else None, target)
        stock = utils._ChunkedLogProbFunction.apply(
            *arguments, case.temperature, 7, case.softcap, case.scale, ("log_probs", "entropy")
        )
        assert stock[2:] == (None, None, None)
        for theirs, ours in zip(stock, host_contracts.stock_head(case, *arguments), strict=False):
            torch.testing.assert_close(theirs, ours.float(), rtol=1e-5, atol=1e-5)
