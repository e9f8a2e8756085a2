"""What follows the output head: measured to the last bit in any dtype, refused where it is neither scale nor cap."""

import pytest
import torch
import transformers

from aslfast.errors import UserError
from aslfast.models.output_head import LogitTransform, measure_transform
from tests.support.tiny_architectures import tiny_architecture

SETTINGS = [
    ("qwen2", {}, LogitTransform()),
    ("granite", {"logits_scaling": 8.0}, LogitTransform(0.125)),
    ("granite", {"logits_scaling": 3.0}, LogitTransform(1 / 3)),
    ("cohere", {"logit_scale": 0.0625}, LogitTransform(0.0625)),
    ("hyperclovax", {"logits_scaling": 0.25}, LogitTransform(0.25)),
    ("gemma2", {"final_logit_softcapping": 30.0}, LogitTransform(1.0, 30.0)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "settings", "expected"), SETTINGS)
def test_measured_is_what_the_configuration_says(kind, settings, expected, dtype):
    found = measure_transform(tiny_architecture(kind, **settings).to(dtype))
    assert found.scale == pytest.approx(expected.scale, rel=1e-15) and found.softcap == expected.softcap


def test_nothing_after_the_head_changes_no_bit():
    assert measure_transform(tiny_architecture("llama")).of_bare_logits(0.7) == (0.7, None)


def test_scale_and_cap_together():
    """c tanh(s x / c) / t by the kernel's own two numbers."""
    both, x = LogitTransform(0.5, 20.0), torch.linspace(-90, 90, 7, dtype=torch.float64)
    temperature, softcap = both.of_bare_logits(0.7)
    kernel = softcap * torch.tanh(x / softcap) / temperature
    exact = torch.tensor([both(float(value)) for value in x]) / 0.7
    assert torch.allclose(kernel, exact.double(), rtol=1e-6)


def test_anything_else_is_refused():
    class Masked(transformers.LlamaForCausalLM):
        """One token can never be sampled."""

        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits[..., 40] = -100.0
            return out

    model = Masked(tiny_architecture("llama").config)
    with pytest.raises(UserError, match=r"llama: what the model does .* neither a scale nor a cap; use another base"):
        measure_transform(model)
