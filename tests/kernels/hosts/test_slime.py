"""What `patch_slime` puts in slime's place, called as slime calls it, against the re-stated function and slime's own
where it is installed: in float32 within 1e-5 of the largest value.
"""

import sys
import types

import pytest
import torch
import torch.distributed as dist

from aslfast_kernels import patch_slime
from aslfast_kernels.integrations.slime import LogProbs, init
from tests.support.kernels.host_contracts import stand_in_modules
from tests.support.kernels.slime_contract import calculate_log_probs_and_entropy as restated

NAME = "calculate_log_probs_and_entropy"
CASES = {
    "log-probs": {},
    "in pieces": {"chunk_size": 4},
    "entropy for the log": {"with_entropy": True, "with_entropy_grad": False},
    "entropy in the loss": {"with_entropy": True, "with_entropy_grad": True},
    "top-p": {"top_p": True},
    "top-p, entropy in the loss": {"top_p": True, "with_entropy": True},
}


@pytest.fixture(params=["re-stated", "installed"])
def slime(request, monkeypatch):
    """Return the namespace of slime's module."""
    if request.param == "installed":
        return vars(pytest.importorskip("slime.utils.ppo_utils", exc_type=ImportError))
    for name, module in stand_in_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return vars(sys.modules["slime.utils.ppo_utils"])


def inputs():
    g = torch.Generator().manual_seed(0)
    logits, tokens = 3 * torch.randn(13, 300, generator=g), torch.randint(300, (13,), generator=g)
    keep = torch.rand(13, 300, generator=g) < 0.3
    keep[:2, :150], keep[1, 150:] = False, True  # of one half nothing is kept; of row 0 in both little
    return logits, tokens, keep


def run(function, case, columns=slice(None), group=None):
    """Return log-probs, entropies and the logits' gradient."""
    logits, tokens, keep = inputs()
    options = dict(CASES[case])
    if options.pop("top_p", False):
        options["log_prob_keep_mask"] = keep[:, columns]
    leaf = logits[:, columns].clone().requires_grad_()
    logp, entropy = function(leaf, tokens, group, **options)
    loss = (logp.squeeze(-1) * torch.linspace(-1, 2, 13)).sum()
    if entropy is not None and entropy.requires_grad:
        loss = loss + 0.7 * entropy.sum()
    loss.backward()
    return [logp.detach(), torch.zeros(13) if entropy is None else entropy.detach(), leaf.grad]


def assert_equal(got, want):
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        assert float((mine - theirs).abs().max()) <= 1e-5 * max(float(theirs.abs().max()), 1.0)


@pytest.mark.parametrize("case", CASES)
def test_the_patched_function_is_slimes(case, slime):
    stock = run(slime[NAME], case)
    with patch_slime():
        assert isinstance(slime[NAME], LogProbs)
        ours = run(slime[NAME], case)
    assert_equal(ours, stock)
    assert_equal(stock, run(restated, case))
    assert float(stock[2].abs().max()) > 0.1


def test_no_token(slime):
    for with_entropy in (True, False):
        results = []
        for function in (slime[NAME], LogProbs(None)):
            logp, entropy = function(torch.zeros(0, 7), torch.zeros(0, dtype=torch.long), None, with_entropy)
            results.append((logp.shape, None if entropy is None else entropy.shape))
        assert results[0] == results[1]


def work(rank, folder):
    """Write what this rank computes of its half of the vocabulary, in its group and with none named."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    alone = [dist.new_group([i]) for i in range(2)][rank]
    half = slice(150 * rank, 150 * (rank + 1))
    results = {case: run(LogProbs(None), case, half, dist.group.WORLD) for case in CASES}
    results["no group"] = run(LogProbs(None), "log-probs", half, None)
    results["alone"] = run(LogProbs(None), "log-probs", slice(None), alone)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", [*CASES, "no group", "alone"])
def test_two_tensor_parallel_ranks_are_one(case, ranks):
    """A group of one rank is no split; without a group slime sums over all ranks."""
    want = run(restated, case if case in CASES else "log-probs")
    for rank in range(2):
        half = slice(None) if case == "alone" else slice(150 * rank, 150 * (rank + 1))
        assert_equal(ranks[rank][case], [*want[:2], want[2][:, half]])


def test_the_hook_of_the_command_line(monkeypatch):
    """slime splits the path at its last point, imports and calls it with its arguments."""
    modules = stand_in_modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    init(types.SimpleNamespace())
    assert isinstance(vars(modules["slime.utils.ppo_utils"])[NAME], LogProbs)
    assert isinstance(vars(modules["slime.backends.megatron_utils.loss"])[NAME], LogProbs)


def test_an_older_slime_is_refused(monkeypatch):
    modules = stand_in_modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    del vars(modules["slime.utils.ppo_utils"])[NAME]
    with pytest.raises(RuntimeError, match="has no calculate_log_probs_and_entropy"):
        patch_slime()
