"""How far a model attends to everything at fixed frequencies: windows and rotary frequencies that change."""

import pytest
import torch
import transformers

from aslfast.errors import UserError
from aslfast.learner.batch import make_batch
from aslfast.models import lora
from aslfast.models.context_limit import check_context, context_limit
from tests.support.learner.reference import learner_of, naive_logprobs
from tests.support.tiny_architectures import tiny_architecture
from tests.support.tiny_models import stir
from tests.support.token_streams import grouped

FACTORS = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
LONG = {"rope_parameters": {**FACTORS, "factor": 4.0}, "original_max_position_embeddings": 32, "sliding_window": None}
LAYERS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("kind", "settings", "tokens", "what"),
    [
        ("llama", {}, 128, "has 128 positions"),
        ("mistral", {"sliding_window": 64}, 64, r"attends to 64 tokens \(sliding_window\)"),
        ("mistral", {"sliding_window": None}, 128, "has 128 positions"),
        ("mistral", {"sliding_window": 4096}, 128, "has 128 positions"),
        ("gemma3_text", {"sliding_window": 40, "layer_types": LAYERS}, 40, "sliding_window"),
        ("phi3", LONG, 32, "beyond 32 tokens .rope_type longrope"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, 128, "128"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, 128, "has 128"),
    ],
)
def test_the_least_limit_counts(kind, settings, tokens, what):
    limit = context_limit(tiny_architecture(kind, **settings).config)
    check_context(limit, tokens)
    with pytest.raises(UserError, match=rf"max_context is {tokens + 1}, the model .*{what}.*set it to {tokens}"):
        check_context(limit, tokens + 1)


def test_layers_without_attention_are_refused():
    config = transformers.Qwen2Config(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
    with pytest.raises(UserError, match="qwen2: layers of type linear_attention are not supported; use"):
        context_limit(config)


def sliding_model(window):
    model = tiny_architecture("mistral", sliding_window=window, vocab_size=300)
    adapted = lora.add_adapters(model, 2, 4.0, seed=0)
    stir(adapted)
    return adapted


def test_a_window_that_no_trajectory_leaves_changes_nothing():
    trajectories, advantage = grouped()
    longest = max(len(t.token_ids) for t in trajectories)
    model = sliding_model(longest)
    ours = learner_of(model).logprobs(make_batch(trajectories, advantage))
    assert (ours.detach() - naive_logprobs(model, trajectories)).abs().max() < 1e-4
    shorter = sliding_model(longest // 2)
    with pytest.raises(UserError, match=rf"a trajectory has \d+ tokens, the model attends to {longest // 2} tokens"):
        learner_of(shorter).logprobs(make_batch(trajectories, advantage))


def test_longrope_would_depend_on_its_neighbours():
    """Why it is refused beyond the original length: a short text's logits change with the longest one beside it."""
    model = tiny_architecture("phi3", **LONG)
    short, long = torch.arange(2, 22)[None], torch.arange(2, 62)[None]
    padded = torch.cat([short, torch.zeros(1, 40, dtype=torch.long)], dim=1)
    positions = torch.arange(60)[None].expand(2, -1)
    with torch.no_grad():
        alone = model(input_ids=short).logits[0]
        beside = model(input_ids=torch.cat([padded, long]), position_ids=positions).logits[0, :20]
    assert (alone - beside).abs().max() > 1e-3
    with pytest.raises(UserError, match="rotary frequencies"):
        check_context(context_limit(model.config), 60)
