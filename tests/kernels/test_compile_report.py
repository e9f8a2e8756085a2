"""Every shipped kernel configuration compiles for sm_90 within bounds; and each kind of breach is reported."""

import json

import pytest

pytest.importorskip("triton")

import triton
import triton.language as tl

from aslfast_kernels import compile_report
from aslfast_kernels.compilation.entry import Entry


def test_every_shipped_configuration_is_within_bounds(capsys):
    assert compile_report.main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len({row["name"] for row in rows}) == len(compile_report.shipped())
    for row in rows:
        assert row["spills"] == 0
        assert row["shared_bytes"] <= 227 * 1024
        assert row["tma_loads"] > 0 or "TMA" not in row["name"]
    assert sum(row["hgmma"] > 0 for row in rows) >= 20


@triton.jit
def _greedy_kernel(a_ptr, b_ptr, out_ptr, K, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """Multiply with more accumulated values a thread than there are registers, or tiles beyond shared memory."""
    at, deep = tl.arange(0, ROWS), tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, ROWS), tl.float32)
    for k in range(0, K, DEPTH):
        a = tl.load(a_ptr + at[:, None] * K + k + deep[None, :])
        b = tl.load(b_ptr + at[:, None] * K + k + deep[None, :])
        total = tl.dot(a, b.T, total)
    tl.store(out_ptr + at[:, None] * ROWS + at[None, :], total)


@pytest.mark.parametrize(
    ("rows", "depth", "warps", "breach"),
    [(256, 64, 4, "spills"), (128, 256, 8, "shared memory beyond"), (32, 64, 4, "no HGMMA")],
)
def test_breaches_are_reported(rows, depth, warps, breach, capsys, monkeypatch):
    signature = {"a_ptr": "*bf16", "b_ptr": "*bf16", "out_ptr": "*fp32", "K": "i32"}
    options = {"num_warps": warps, "num_stages": 3}
    entry = Entry("greedy", _greedy_kernel, signature, {"ROWS": rows, "DEPTH": depth}, options, is_matrix=True)
    monkeypatch.setattr(compile_report, "shipped", lambda: [entry])
    assert compile_report.main([]) == 1
    assert breach in capsys.readouterr().out
