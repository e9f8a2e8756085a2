"""Every back end of the packed attention against a dense float64 softmax under a mask written out token by token.

Tolerance: torch's own float32 attention over one trajectory at a time has some error against float64; ours may have
twice that plus 16 roundings at the size of the values.
"""

import os
import sys
import types

import pytest
import torch
import transformers

from aslfast.config import load_recipe
from aslfast.errors import UserError
from aslfast.learner import attention, attention_sdpa
from aslfast.learner.attention import BACKENDS, FlashAttention, FlexAttention, choose_backend
from aslfast.learner.attention_sdpa import PaddedAttention, make_buckets
from aslfast.learner.batch import make_batch
from aslfast.trainer.build import prepare_torch
from tests.support.token_streams import grouped, ragged

EPS = torch.finfo(torch.float32).eps
HEADS, KV_HEADS, WIDTH, SCALE = 4, 2, 8, 0.3
BATCHES = {"shared": lambda: make_batch(*grouped()), "unshared": lambda: make_batch(*ragged(), share=False)}


def seen_by_tokens(made):
    """[T, T] bool: the trajectories' own tokens, walked one by one."""
    n, start, at = len(made.input_T), 0, 0
    seen = torch.zeros(n, n, dtype=torch.bool)
    for queries, keys in zip(made.segments.query_lengths, made.segments.key_lengths, strict=True):
        path = made.segments.key_K[at : at + keys]
        for i in range(queries):
            seen[start + i, path[: keys - queries + i + 1]] = True
        start, at = start + queries, at + keys
    return seen


def dense(query, key, value, seen):
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (key, value))
    scores = torch.einsum("thd,shd->hts", query, key) * SCALE
    return torch.einsum("hts,shd->thd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)


def inputs(n, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = [(n, HEADS, WIDTH), (n, KV_HEADS, WIDTH), (n, KV_HEADS, WIDTH), (n, HEADS, WIDTH)]
    drawn = [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]
    return [x.requires_grad_() for x in drawn[:3]], drawn[3]


def with_gradients(attend, n, dtype):
    qkv, upstream = inputs(n, dtype)
    out = attend(*qkv)
    return [out.detach().double(), *(g.double() for g in torch.autograd.grad(out, qkv, upstream))]


def loose_bound(exact, own):
    return 2 * own + 16 * EPS * float(exact.abs().max())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("most_pairs", [1 << 20, 300])
def test_padded_attention_and_its_gradients(batch, most_pairs, monkeypatch):
    monkeypatch.setattr(attention_sdpa, "MAX_PAIRS", most_pairs)
    made = BATCHES[batch]()
    n, seen = len(made.input_T), seen_by_tokens(made)
    exact = with_gradients(lambda q, k, v: dense(q, k, v, seen), n, torch.float64)
    own = with_gradients(lambda q, k, v: dense(q, k, v, seen), n, torch.float32)
    for dtype, bound in ((torch.float64, lambda e, o: 1e-12), (torch.float32, loose_bound)):
        attend = PaddedAttention(made.segments, dtype)
        ours = with_gradients(lambda q, k, v, a=attend: a(q, k, v, SCALE), n, dtype)
        for e, o, found in zip(exact, own, ours, strict=True):
            assert (found - e).abs().max() <= bound(e, float((o - e).abs().max()))


def test_buckets_hold_every_segment_once_and_keep_to_their_size():
    segments = make_batch(*grouped()).segments
    buckets = make_buckets(segments.query_lengths, segments.key_lengths)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(segments.query_lengths)))
    for bucket in buckets:
        keys = [segments.key_lengths[i] for i in bucket]
        assert max(keys) <= attention_sdpa.MAX_LENGTH_RATIO * min(keys)
    assert make_buckets([5] * 9, [1 << 19] * 9) == [[i] for i in range(9)]


def test_flex_sees_what_the_tokens_see():
    made = make_batch(*grouped())
    at = torch.arange(len(made.input_T))
    none = torch.zeros((), dtype=torch.long)
    mask = attention.mask_function(made.segments.end_T)(none, none, at[:, None], at[None, :])
    assert torch.equal(mask, seen_by_tokens(made))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention(batch):
    """Forward alone: its backward does not exist on a CPU."""
    made = BATCHES[batch]()
    q, k, v = (x.detach() for x in inputs(len(made.input_T), torch.float32)[0])
    with torch.no_grad():
        exact = dense(q.double(), k.double(), v.double(), seen_by_tokens(made))
        own = float((dense(q, k, v, seen_by_tokens(made)) - exact).abs().max())
        ours = FlexAttention(made.segments)(q, k, v, SCALE)
    assert (ours - exact).abs().max() <= loose_bound(exact, own)


def flash_as_documented(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False,
    deterministic=False,
):  # fmt: skip
    """flash-attn's varlen function by its documentation, for one sequence at a time: the causal mask is aligned to the
    bottom right corner, key heads are shared by consecutive query heads."""
    assert causal and cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert cu_seqlens_q[-1] == len(q) and cu_seqlens_k[-1] == len(k) == len(v)
    outs = []
    for i in range(len(cu_seqlens_q) - 1):
        own = q[cu_seqlens_q[i] : cu_seqlens_q[i + 1]]
        keys, values = (
            x[cu_seqlens_k[i] : cu_seqlens_k[i + 1]].repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v)
        )
        assert 0 < len(own) <= max_seqlen_q and len(own) <= len(keys) <= max_seqlen_k
        corner = torch.ones(len(own), len(keys), dtype=torch.bool).tril(len(keys) - len(own))
        scores = torch.einsum("thd,shd->hts", own, keys) * softmax_scale
        outs.append(torch.einsum("hts,shd->thd", scores.masked_fill(~corner, -torch.inf).softmax(-1), values))
    return torch.cat(outs)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("returns", [lambda out: out, lambda out: (out, None)])
def test_what_flash_is_given_is_the_same_attention(batch, returns, monkeypatch):
    """The kernel itself needs a GPU; in its place stands what its documentation says of it."""
    stand_in = types.SimpleNamespace(flash_attn_varlen_func=lambda *a, **k: returns(flash_as_documented(*a, **k)))
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    monkeypatch.setattr(attention, "flash_package", lambda: "flash_attn")
    made = BATCHES[batch]()
    n, seen = len(made.input_T), seen_by_tokens(made)
    attend = FlashAttention(made.segments)
    ours = with_gradients(lambda q, k, v: attend(q, k, v, SCALE), n, torch.float64)
    exact = with_gradients(lambda q, k, v: dense(q, k, v, seen), n, torch.float64)
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(ours, exact, strict=True))


CPU, GPU = torch.device("cpu"), torch.device("cuda")
HALF, FULL = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    "wanted, device, dtype, package, found",
    [
        ("auto", CPU, FULL, "flash_attn", "sdpa"),
        ("auto", GPU, HALF, "flash_attn", "flash"),
        ("auto", GPU, FULL, "flash_attn", "flex"),
        ("auto", GPU, HALF, "", "flex"),
        ("sdpa", GPU, HALF, "flash_attn", "sdpa"),
        ("flex", GPU, HALF, "flash_attn", "flex"),
        ("flash", GPU, HALF, "flash_attn", "flash"),
    ],
)
def test_choice(wanted, device, dtype, package, found, monkeypatch):
    monkeypatch.setattr(attention, "flash_package", lambda: package)
    assert choose_backend(wanted, device, dtype) == found in BACKENDS


@pytest.mark.parametrize(
    "wanted, device, dtype, package, line",
    [
        ("flash", CPU, HALF, "flash_attn", r"learner.attention=flash needs a GPU \(the model is on cpu\)"),
        ("flash", GPU, FULL, "flash_attn", r"needs model.dtype bfloat16 or float16 \(it is float32\)"),
        ("flash", GPU, HALF, "", r"needs the package flash-attn.*use learner.attention=auto"),
        ("flex", CPU, FULL, "flash_attn", r"learner.attention=flex needs a GPU"),
    ],
)
def test_what_is_not_there_is_refused(wanted, device, dtype, package, line, monkeypatch):
    monkeypatch.setattr(attention, "flash_package", lambda: package)
    with pytest.raises(UserError, match=line):
        choose_backend(wanted, device, dtype)


def test_the_installed_package_is_found(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("flash_attn", "flash_attn_interface"):  # 3 is taken where both are
        (tmp_path / f"{name}.py").write_text("")
        attention.flash_package.cache_clear()
        assert attention.flash_package() == name
    attention.flash_package.cache_clear()


def test_other_attention_is_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"vocab_size": 32, "intermediate_size": 16}
    linear = transformers.Qwen2Config(**sizes, layer_types=["full_attention", "linear_attention"])
    with pytest.raises(UserError, match=r"qwen2: layers of type linear_attention are not supported"):
        attention.check_architecture(transformers.Qwen2ForCausalLM(linear))
    with pytest.raises(UserError, match=r"mpt: a custom attention implementation is not supported"):
        mpt = transformers.MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=32)
        attention.check_architecture(transformers.MptForCausalLM(mpt))
    attention.check_architecture(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)))
    made = make_batch(*ragged())
    attend, x = PaddedAttention(made.segments, FULL), torch.zeros(1, 2, len(made.input_T), 4)
    for more, line in (
        ({"softcap": 30.0}, "caps its attention scores"),
        ({"s_aux": torch.zeros(2)}, "has attention sinks"),
    ):
        with pytest.raises(UserError, match=line):
            attention.packed_attention(torch.nn.Identity(), x, x, x, None, 1.0, attend=attend, **more)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_deterministic_run_asks_the_kernel_for_it(wanted, monkeypatch):
    asked = []

    def kernel(q, k, v, *_, deterministic, **__):
        asked.append(deterministic)
        return q

    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_varlen_func=kernel))
    monkeypatch.setattr(attention, "flash_package", lambda: "flash_attn")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        prepare_torch(load_recipe("tiny", [f"deterministic={str(wanted).lower()}", "threads=0"]))
        made = BATCHES["shared"]()
        FlashAttention(made.segments)(*inputs(len(made.input_T))[0], SCALE)
        assert asked == [wanted] and ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == wanted
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)
