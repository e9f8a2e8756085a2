"""The handle of a patch: what it replaces, puts back, and refuses."""

import sys

import pytest

from aslfast_kernels import patch_openrlhf, patch_prime_rl, patch_slime, patch_trl, patch_verl
from aslfast_kernels.integrations.patch import Patch
from tests.support.kernels import host_contracts as host

PRIME_RL = "prime_rl.trainer.models.layers"


@pytest.fixture
def modules(monkeypatch):
    made = host.stand_in_modules()
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in host.VISION:  # verl's that are not importable here
        monkeypatch.setitem(sys.modules, f"verl.models.transformers.{name}", None)
    return {name: vars(module) for name, module in made.items()}


def names_of(modules):
    """Return what the patches may replace."""
    registry = modules["verl.trainer.ppo.core_algos"]["POLICY_LOSS_REGISTRY"]
    return {
        "trl": modules["trl.trainer.utils"]["_ChunkedLogProbFunction"],
        "verl": modules["verl.utils.kernel.linear_cross_entropy"]["linear_cross_entropy"],
        "verl, imported early": modules["verl.models.mcore.model_forward_fused"]["linear_cross_entropy"],
        "verl, loss": registry["vanilla"],
        "verl, forward": modules["verl.models.transformers.dense_common"]["forward_with_triton_backend"],
        "slime": modules["slime.utils.ppo_utils"]["calculate_log_probs_and_entropy"],
        "slime, imported early": modules["slime.backends.megatron_utils.loss"]["calculate_log_probs_and_entropy"],
        "openrlhf": modules["openrlhf.models.utils"]["log_probs_from_logits"],
        "openrlhf, entropy": modules["openrlhf.models.utils"]["compute_entropy"],
        "openrlhf, imported early": modules["openrlhf.models.actor"]["log_probs_from_logits"],
        "openrlhf, loss": modules["openrlhf.models.loss"]["PolicyLoss"],
        "openrlhf, loss, imported early": modules["openrlhf.trainer.ray.ppo_actor"]["PolicyLoss"],
        "prime-rl": modules[f"{PRIME_RL}.lm_head"]["_SequenceChunkedLogProbEntropyFn"],
        "prime-rl, softcap": modules[f"{PRIME_RL}.lm_head_gemma"]["_GemmaChunkedLogProbEntropyFn"],
    }


HOSTS = [(patch_trl, "trl"), (patch_verl, "verl"), (patch_slime, "slime"), (patch_openrlhf, "openrlhf")]
HOSTS += [(patch_prime_rl, "prime-rl")]


@pytest.mark.parametrize(("patch", "host_name"), HOSTS)
def test_replaces_all_of_a_host_and_puts_it_back(patch, host_name, modules):
    before = names_of(modules)
    handle = patch()
    changed = {name for name, value in names_of(modules).items() if value is not before[name]}
    assert changed == {name for name in before if name.startswith(host_name)}
    with pytest.raises(RuntimeError, match="patched already"):
        patch()
    handle.undo()
    assert names_of(modules) == before
    handle.undo()
    with patch(), pytest.raises(RuntimeError, match="patched already"):
        patch()
    assert names_of(modules) == before


@pytest.mark.parametrize(("patch", "name", "kind"), [
    (patch_trl, "trl.trainer.utils", "_ChunkedLogProbFunction"),
    (patch_verl, "verl.utils.kernel.linear_cross_entropy", "LinearCrossEntropy"),
    (patch_prime_rl, f"{PRIME_RL}.lm_head", "_SequenceChunkedLogProbEntropyFn"),
    (patch_prime_rl, f"{PRIME_RL}.lm_head_gemma", "_GemmaChunkedLogProbEntropyFn"),
    (patch_openrlhf, "openrlhf.models.loss", "PolicyLoss"),
])  # fmt: skip
def test_refuses_a_host_with_other_parameters(patch, name, kind, modules):
    class Newer(modules[name][kind]):
        @staticmethod
        def forward(ctx, hidden, weight, label_smoothing):
            raise AssertionError

    modules[name][kind] = Newer
    before = names_of(modules)
    with pytest.raises(RuntimeError, match=r"label_smoothing, we know (ctx, hidden, weight|self, log_probs)"):
        patch()
    assert names_of(modules) == before


@pytest.mark.parametrize(("patch", "name", "function"), [
    (patch_slime, "slime.utils.ppo_utils", "calculate_log_probs_and_entropy"),
    (patch_openrlhf, "openrlhf.models.utils", "log_probs_from_logits"),
    (patch_openrlhf, "openrlhf.models.utils", "compute_entropy"),
])  # fmt: skip
def test_refuses_a_function_with_other_parameters(patch, name, function, modules):
    modules[name][function] = lambda logits, label_smoothing: None
    before = names_of(modules)
    with pytest.raises(RuntimeError, match="takes logits, label_smoothing, we know logits"):
        patch()
    assert names_of(modules) == before


def test_refuses_a_loss_with_other_parameters(modules):
    modules["verl.trainer.ppo.core_algos"]["POLICY_LOSS_REGISTRY"]["vanilla"] = lambda old_log_prob, log_prob: None
    before = names_of(modules)
    with pytest.raises(RuntimeError, match="takes old_log_prob, log_prob, we know"):
        patch_verl()
    assert names_of(modules) == before


def test_refuses_an_older_trl(modules):
    del modules["trl.trainer.utils"]["_ChunkedLogProbFunction"]
    with pytest.raises(RuntimeError, match=r"needs TRL 1\.16 or newer"):
        patch_trl()


@pytest.mark.parametrize(
    ("patch", "name"),
    [
        (patch_trl, "trl.trainer.utils"),
        (patch_verl, "verl.trainer.ppo.core_algos"),
        (patch_slime, "slime.utils.ppo_utils"),
        (patch_openrlhf, "openrlhf.models.loss"),
        (patch_prime_rl, "prime_rl.trainer.models.layers.lm_head_gemma"),
    ],
)
def test_a_missing_host_is_an_import_error(patch, name, modules, monkeypatch):
    before = names_of(modules)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=name):
        patch()
    assert names_of(modules) == before


def test_undo_leaves_another_patch_alone():
    namespace = {"first": 1, "second": 2}
    mine, other = Patch(), Patch()
    mine.replace(namespace, "first", 10)
    mine.replace(namespace, "second", 20)
    other.replace(namespace, "second", 30)
    with pytest.raises(RuntimeError, match="second was replaced by another patch"):
        mine.undo()
    assert namespace == {"first": 10, "second": 30}
    other.undo()
    mine.undo()
    assert namespace == {"first": 1, "second": 2}
