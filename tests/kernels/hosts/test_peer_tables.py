"""Liger-Kernel's and TRL's own tests of GRPO losses and log-probs, as tables over ours, with their tolerances.

Liger 0.8.5: test/chunked_loss/test_grpo_loss.py and test/transformers/test_grpo_loss.py. TRL 1.16: tests/test_utils.py
(TestChunkedLogProbFunction, TestSelectiveLogSoftmax, TestEntropyFromLogits). What we do not have is listed, with the
reason, in docs/reuse/kernels-integrations.md, and refused below where it can be asked for.
"""

import dataclasses
from itertools import product

import pytest
import torch

from aslfast_kernels import aggregate_loss, kl_estimate, linear_logprob, logprob, policy_loss, sapo_loss
from aslfast_kernels.integrations.trl import FusedHead
from tests.support.kernels.peer_losses import PeerBatch, PeerCase, peer_loss

CLIPPED = ("bnpo", "grpo", "dr_grpo", "dapo")
TOLERANCES = {torch.float32: {"atol": 2e-5, "rtol": 1e-3}, torch.bfloat16: {"atol": 1e-1, "rtol": 5e-1}}  # Liger's
SETTINGS = ({"beta": 0.1}, {"epsilon_low": 0.1, "epsilon_high": 0.1, "temperature": 2.0})
CASES = [
    *(PeerCase(kind, level, delta, **more) for kind, level, delta, more in
      product(CLIPPED, ("token", "sequence"), (None, 2.0), SETTINGS)),
    *(PeerCase("cispo", **more | {"epsilon_high": high}) for more, high in product(SETTINGS, (1.0, 5.0))),
    *(PeerCase("sapo", **more) for more in SETTINGS),
    *(PeerCase("luspo", "sequence", delta, **SETTINGS[1]) for delta in (None, 2.0)),
    *(PeerCase(kind, items=170.0, epsilon_high=5.0 if kind == "cispo" else 0.2) for kind in ("dapo", "cispo")),
]  # fmt: skip


def make_batch(dtype, temperature=1.0, bias=True, old=True, ratio=False):
    """Return Liger's random shape: B 3, T 47, H 31, V 123, masked at random, advantages of both signs."""
    g = torch.Generator().manual_seed(0)
    randn = lambda *sizes: torch.randn(*sizes, generator=g)  # noqa: E731
    hidden, weight = randn(3, 47, 31).to(dtype), randn(123, 31).to(dtype)
    ids, mask = torch.randint(123, (3, 47), generator=g), (torch.rand(3, 47, generator=g) < 0.6).float()
    b = randn(123).to(dtype) if bias else None
    logp = torch.nn.functional.linear(hidden.float(), weight.float(), None if b is None else b.float())
    logp = (logp / temperature).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    advantages = torch.tensor([-1.0, 1.0, 0.3]) * (0.1 + torch.rand(3, generator=g))
    earlier = logp + 0.3 * randn(3, 47) if old else None
    weights = 0.001 + 0.999 * torch.rand(3, 47, generator=g) if ratio else None
    return PeerBatch(hidden, weight, b, ids, mask, advantages, earlier, logp + 0.2 * randn(3, 47), weights)


def our_loss(batch, case):
    """Return (loss, mean KL, clip fraction) of the batch by the package's functions."""
    flat = batch.hidden.flatten(0, 1), batch.weight, batch.ids.flatten()
    logp = linear_logprob(*flat, bias=batch.bias, mask=batch.mask.flatten(), temperature=case.temperature)
    old = logp.detach() if batch.old is None else batch.old.flatten()
    rows, width = batch.ids.shape
    ids, mask = torch.arange(rows).repeat_interleave(width), batch.mask.flatten()
    aggregate, normalizer = {
        "grpo": ("sequence_mean", rows), "sapo": ("sequence_mean", rows), "dr_grpo": ("constant", rows * width),
        "luspo": ("constant", rows),
    }.get(case.loss_type, ("token_mean", case.items))  # fmt: skip
    common = {"aggregate": aggregate, "normalizer": normalizer, "sequence_ids_T": ids, "mask_T": mask}
    if case.loss_type == "sapo":
        terms = sapo_loss(logp, old, batch.advantages[ids], mask_T=mask)
        kl = kl_estimate(logp, batch.reference.flatten(), mask_T=mask)
        return aggregate_loss(terms + case.beta * kl, **common), aggregate_loss(kl, mask_T=mask), torch.zeros(())
    cispo = {"kind": "cispo", "clip_low": 1.0, "clip_high": case.epsilon_high - 1}
    ppo = {"clip_low": case.epsilon_low, "clip_high": case.epsilon_high, "dual_clip": case.delta}
    loss, metrics = policy_loss(
        logp, old, batch.advantages, advantage_level="sequence", ratio_level=case.level,
        ref_logp_T=batch.reference.flatten(), kl_coef=case.beta,
        weights_T=None if batch.sampler_ratio is None else batch.sampler_ratio.flatten(),
        **cispo if case.loss_type == "cispo" else ppo, **common,
    )  # fmt: skip
    return loss, metrics.kl_ref, metrics.clip_fraction


def run(function, batch, case):
    """Return loss, KL, clip fraction, and the gradients of hidden states, head and bias."""
    names = ["hidden", "weight"] + ([] if batch.bias is None else ["bias"])
    leaves = {name: getattr(batch, name).clone().requires_grad_() for name in names}
    loss, kl, clipped = function(dataclasses.replace(batch, **leaves), case)
    loss.backward()
    return loss.detach(), kl.detach(), clipped, [leaf.grad for leaf in leaves.values()]


def assert_as_the_peer(batch, case, dtype, has_clip=True):
    ours, theirs = run(our_loss, batch, case), run(peer_loss, batch, case)
    assert float(theirs[3][0].abs().max()) > 0
    torch.testing.assert_close(ours[0].float(), theirs[0].float(), **TOLERANCES[dtype])
    torch.testing.assert_close(ours[1].float(), theirs[1].float(), **TOLERANCES[dtype])
    if has_clip:
        torch.testing.assert_close(ours[2].float(), theirs[2].float(), **TOLERANCES[dtype])
    for mine, other in zip(ours[3], theirs[3], strict=True):
        torch.testing.assert_close(mine, other, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("bias", "old"), [(True, True), (False, False)])
def test_liger_correctness(case, bias, old, dtype):
    """Liger's share of clipped tokens leaves out what delta cuts, counts CISPO's by the advantage's sign, and in bf16
    comes from log-probs that its logits have rounded."""
    has_clip = case.delta is None and case.loss_type not in ("cispo", "sapo") and dtype == torch.float32
    assert_as_the_peer(make_batch(dtype, case.temperature, bias, old), case, dtype, has_clip)


@pytest.mark.parametrize("kind", ["bnpo", "grpo", "dapo", "cispo"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_liger_vllm_is_ratio(kind, beta):
    case = PeerCase(kind, beta=beta, epsilon_high=2.0 if kind == "cispo" else 0.2)
    assert_as_the_peer(make_batch(torch.float32, ratio=True), case, torch.float32, has_clip=False)


@pytest.mark.parametrize("temperature", [0.9, 0.7])
@pytest.mark.parametrize("vocabulary", [64000, 151936])
def test_liger_selective_log_softmax(temperature, vocabulary, impl="torch"):
    """On bfloat16 logits Liger allows 5e-2; ours is within 1e-5 of float32."""
    g = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(8, vocabulary, generator=g).bfloat16(), torch.randint(vocabulary, (8,), generator=g)
    want = (logits.float() / temperature).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    got = logprob(logits, ids, temperature=temperature, impl=impl)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("patched", [False, True])
def test_trl_chunked_log_prob_function(dtype, temperature, patched):
    """N 64, H 32, V 128; TRL allows 1e-5, and 1e-2 in bfloat16 (test_backward_bfloat16)."""
    torch.manual_seed(42)
    hidden, weight = (torch.randn(n, 32, dtype=dtype) for n in (64, 128))
    labels, results = torch.randint(128, (64,)), []
    for ours in (True, False):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        if ours and patched:
            outputs = ("log_probs", "entropy")
            logp, entropy, *_ = FusedHead(None).apply(*leaves, None, labels, temperature, 32, None, 1.0, outputs)
        elif ours:
            logp, entropy = linear_logprob(*leaves, labels, temperature=temperature, return_entropy=True)
        else:
            log_p = ((leaves[0] @ leaves[1].T).float() / temperature).log_softmax(-1)
            logp, entropy = log_p.gather(1, labels[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
        logp.sum().backward()
        results.append((logp.detach(), entropy.detach(), *(leaf.grad for leaf in leaves)))
    allowed = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 1e-2}
    # In bfloat16 their reference rounds the logits: by up to 2^-9 of 30.
    values = allowed if dtype == torch.float32 else {"atol": 2e-1, "rtol": 1e-2}
    for i, (mine, theirs) in enumerate(zip(*results, strict=True)):
        torch.testing.assert_close(mine, theirs, **values if i < 2 or dtype == torch.bfloat16 else allowed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_trl_selective_log_softmax(dtype):
    """In half precision TRL returns the logits' dtype: ours, rounded to it, is the same or its neighbour."""
    g = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(128, 1024, generator=g, dtype=torch.float64).to(dtype), torch.arange(128)
    want = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    got = logprob(logits, ids).to(dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    torch.testing.assert_close(got, want, rtol=torch.finfo(dtype).eps if half else 1e-5, atol=0 if half else 1e-5)


@pytest.mark.parametrize("shape", [(768,), (32, 768), (8, 16, 768), (2, 4, 8, 768)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_trl_entropy_from_logits(shape, dtype):
    """Rows flattened. In half precision TRL's own has that dtype's rounding, ours float32's."""
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    flat = logits.reshape(-1, 768)
    log_p = flat.double().log_softmax(-1)
    _, entropy = logprob(flat, torch.zeros(len(flat), dtype=torch.long), return_entropy=True)
    want = -(log_p.exp() * log_p).sum(-1)
    torch.testing.assert_close(entropy.double(), want, rtol=1e-5, atol=1e-5)


def test_what_the_tables_leave_out_is_refused():
    """A CISPO bound below 1 (Liger's cases have 0.2 and 0.1), and Liger's own refusals of sequence levels."""
    columns = [torch.zeros(4) for _ in range(3)]
    with pytest.raises(ValueError, match=r"clip_high: got -0\.8"):
        policy_loss(*columns, kind="cispo", clip_high=0.2 - 1)
    with pytest.raises(TypeError, match="ratio_level"):
        sapo_loss(*columns, ratio_level="sequence")
