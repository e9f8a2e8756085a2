"""Before any work: learner and local sampler against the model's own forward pass; logits that are not finite."""

import asyncio
import copy

import pytest
import torch

from aslfast.config.schema import SamplerConfig
from aslfast.errors import UserError
from aslfast.models import lora
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import SampleRequest
from aslfast.sampler.sglang.sync_check import PROMPT_TOKENS
from aslfast.trainer.forward_check import check_learner, open_local_sampler, probe_ids
from aslfast.trainer.preflight.sampler_check import check_sampler
from tests.support.learner.reference import learner_of
from tests.support.tiny_architectures import tiny_architecture
from tests.support.tiny_models import stir, tiny_model
from tests.support.token_streams import grouped

SAMPLER = SamplerConfig(max_running_requests=4, max_context=64)


def adapted(base):
    model = lora.add_adapters(base, 2, 4.0, seed=0)
    stir(model)
    return model


def test_the_probe_is_text_that_the_model_has(model, tokenizer):
    assert len(probe_ids(model, tokenizer, "compact")) == PROMPT_TOKENS
    small = tiny_architecture("llama", vocab_size=20)
    assert set(probe_ids(small, tokenizer, "compact")) <= set(range(20))


def granite(scaling, head):
    """A base of its own head, in which the logits are head / scaling."""
    model = tiny_architecture("granite", logits_scaling=scaling, vocab_size=300, tie_word_embeddings=False)
    model.lm_head.weight.data *= head
    return adapted(model)


def test_one_function_in_two_forms_trains_alike():
    """A scale after the head, or in its weights: the same log-probs, loss and gradient of every weight."""
    trajectories, advantage = grouped()
    steps = []
    for model in (granite(8.0, 8.0), granite(1.0, 1.0)):
        learner = learner_of(model)
        stats = learner.step("policy", trajectories, advantage)
        steps.append((stats.loss, stats.grad_norm, [p.detach() for p in lora.parameters_of(model, "policy")]))
    (loss, norm, weights), (plain_loss, plain_norm, plain_weights) = steps
    assert loss == pytest.approx(plain_loss, rel=1e-5) and norm == pytest.approx(plain_norm, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights, plain_weights, strict=True))


def test_a_learner_that_computes_another_model_is_refused(tokenizer):
    """As before the scale was measured: 1.2 nats off."""
    learner = learner_of(granite(8.0, 1.0))
    ids = probe_ids(learner.model, tokenizer, "compact")
    assert check_learner(learner, ids) < 1e-4
    learner.packed_model.temperature = learner.temperature
    with pytest.raises(UserError, match=r"granite: the learner's log-probs differ from the model's own by .* nats"):
        check_learner(learner, ids)


@pytest.mark.parametrize(
    ("kind", "sampler", "learner"),
    [
        ("deepseek_v3", "its keys and values are compressed: MLA", "its keys and values are compressed: MLA"),
        ("nemotron", "its attention is an implementation of its own", "a custom attention implementation"),
        ("gemma2", "caps its attention scores", "caps its attention scores"),
        ("gpt_oss", "has attention sinks", "has attention sinks"),
        ("doge", "cannot run this architecture", "log-probs differ from the model's own by"),
        ("roberta", "log-probs differ from the model's own by", "none of the layers"),
        ("mamba", "layers of type mamba|its attention is an implementation of its own", "none of the layers"),
    ],
)
def test_odd_attention_is_refused_in_one_line(kind, sampler, learner, tokenizer):
    base = tiny_architecture(kind)
    with pytest.raises(UserError, match=sampler) as refused:
        open_local_sampler(base, tokenizer, SAMPLER, "compact")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=learner) as refused:
        model = adapted(base)
        check_learner(learner_of(model), probe_ids(model, tokenizer, "compact"))
    assert "\n" not in str(refused.value)


def test_the_check_leaves_the_sampler_as_it_was(model, tokenizer):
    fresh = LocalSampler(model, tokenizer, max_running_requests=4, max_context=64)
    checked = open_local_sampler(model, tokenizer, SAMPLER, "compact")
    assert checked._forward.cache.kv_L2RHSD.shape == fresh._forward.cache.kv_L2RHSD.shape


# --- logits that are not finite --------------------------------------------------------------------------------


def with_nan(model):
    broken = copy.deepcopy(model)
    broken.get_decoder().layers[1].mlp.up_proj.weight.data.view(-1)[5] = float("nan")
    return broken


def overflowing(tokenizer):
    """float16 ends at 65,504; the same weights are finite in float32."""
    model = tiny_model(tokenizer)
    model.get_decoder().layers[0].mlp.up_proj.weight.data *= 3e4
    return model


def refused_sampling(model, tokenizer, match):
    """By the check before a run, and by the sampler itself, at the first token."""
    with pytest.raises(UserError, match=match):
        open_local_sampler(model, tokenizer, SAMPLER, "compact")
    sampler = LocalSampler(model, tokenizer, max_running_requests=4, max_context=64)
    with pytest.raises(UserError, match=match):
        asyncio.run(sampler.generate(SampleRequest((5, 6, 7), "s", None, 4)))


def test_a_nan_weight_is_named_at_the_first_token(tokenizer):
    match = r"qwen2: the model's logits are not finite in model.dtype float32; copy its weights again, one may be NaN$"
    refused_sampling(with_nan(tiny_model(tokenizer)), tokenizer, match)


def test_a_base_that_overflows_in_float16(tokenizer):
    assert open_local_sampler(overflowing(tokenizer), tokenizer, SAMPLER, "compact")
    match = "are not finite in model.dtype float16; set model.dtype to bfloat16 or float32: float16 overflows"
    refused_sampling(overflowing(tokenizer).half(), tokenizer, match)


def test_the_learner_stops_at_the_first_nan(tokenizer):
    """Neither a skipped step nor three of them: no step of this model will ever be finite."""
    model = adapted(with_nan(tiny_model(tokenizer)))
    learner = learner_of(model)
    match = r"the model's logits are not finite in model.dtype float32"
    with pytest.raises(UserError, match=match):
        check_learner(learner, probe_ids(model, tokenizer, "compact"))
    with pytest.raises(UserError, match=match):
        learner.step("policy", *grouped())
    assert learner.skipped_steps == 0 and learner.version["policy"] == 0


# --- the doctor ------------------------------------------------------------------------------------------------


def doctor(kind, tokenizer, folder, **more):
    tiny_architecture(kind, vocab_size=len(tokenizer), **more).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lines, report = check_sampler("local", str(folder))
    return {line.name: line for line in lines}, report


def test_the_doctor_goes_the_learners_way(tokenizer, tmp_path):
    more = {"max_position_embeddings": 512}
    lines, report = doctor("granite", tokenizer, tmp_path / "granite", **more, logits_scaling=8.0)
    assert lines["learner"].ok and report.learner_difference < 1e-4
    lines, report = doctor("stablelm", tokenizer, tmp_path / "stablelm", **more)
    assert not lines["learner"].ok and report.learner_difference is None
    assert "custom attention" in lines["learner"].detail and lines["learner"].suggestion == "use another base"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("qwen2", "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj of 2 layers"),
        ("phi3", "o_proj, down_proj, qkv_proj, gate_up_proj of 2 layers"),
        ("mixtral", "q_proj, k_proj, v_proj, o_proj of 2 layers; without adapters: the experts"),
        ("phi", "q_proj, k_proj, v_proj of 2 layers; without adapters: dense, fc1, fc2"),
    ],
)
def test_which_layers_have_adapters_is_said(kind, said):
    base = tiny_architecture(kind)
    assert lora.describe_targets(base) == said
    assert lora.describe_targets(adapted(base)) == said
