"""Kernel configurations compile within bounds for every card; and each kind of breach is reported.

Here: all of them for sm_90, and for every other card those that take the most. All for all is
`python -m aslfast_kernels.compile_report --arch all`, minutes the first time.
"""

import json

import pytest

pytest.importorskip("triton")

import triton
import triton.language as tl

from aslfast_kernels import compile_report
from aslfast_kernels.cards import CARDS
from aslfast_kernels.compilation.entry import Entry


def report(capsys, *arguments):
    assert compile_report.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def assert_within_bounds(rows, capability):
    limit = {80: 163, 86: 99, 89: 99, 120: 99}.get(capability, 227) * 1024
    assert rows and all(row["arch"] == f"sm_{capability}" for row in rows)
    for row in rows:
        assert row["spills"] == 0 and row["breaches"] == []
        assert 0 < row["registers"] <= 255 and row["shared_bytes"] <= limit
        assert (row["tma_loads"] > 0) == ("TMA" in row["name"])


def test_every_shipped_configuration_is_within_bounds(capsys):
    rows = report(capsys)
    assert len(rows) == len({row["name"] for row in rows}) == len(compile_report.shipped(90))
    assert_within_bounds(rows, 90)
    assert sum(row["products"] > 0 for row in rows) >= 20


@pytest.mark.parametrize("capability", sorted(CARDS.keys() - {90}))
def test_the_largest_of_every_other_card_are_within_bounds(capability, capsys):
    rows = report(capsys, "--largest", "--arch", str(capability))
    assert_within_bounds(rows, capability)
    assert sum(row["products"] > 0 for row in rows) == 3 and any("ragged" in row["name"] for row in rows)
    assert {row["name"] for row in rows} <= {entry.name for entry in compile_report.shipped(capability)}


def test_all_names_the_seven_cards(monkeypatch, capsys):
    monkeypatch.setattr(compile_report, "shipped", lambda capability: [])
    assert list(CARDS) == [80, 86, 89, 90, 100, 103, 120]
    assert report(capsys, "--arch", "all") == []
    with pytest.raises(SystemExit):
        compile_report.main(["--arch", "75"])


def test_a_configuration_that_does_not_compile_is_a_breach(monkeypatch, capsys):
    entry = Entry("broken", _broken_kernel, {"out_ptr": "*fp32"}, {}, {"num_warps": 4})
    monkeypatch.setattr(compile_report, "shipped", lambda capability: [entry])
    assert compile_report.main(["--arch", "86"]) == 1
    assert "| sm_86 | broken | 0 | 0 | 0 | 0 | 0 | does not compile: CompilationError" in capsys.readouterr().out


@triton.jit
def _broken_kernel(out_ptr):
    """Store what no one defined."""
    tl.store(out_ptr, missing)  # noqa: F821


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
    ("capability", "rows", "depth", "warps", "breach"),
    [
        (90, 256, 64, 4, "spills"),
        (90, 128, 256, 8, "shared memory beyond 232448"),
        (90, 32, 64, 4, "no HGMMA"),
        (89, 128, 128, 8, "shared memory beyond 101376"),
        (80, 256, 64, 4, "spills"),
    ],
)
def test_breaches_are_reported(capability, rows, depth, warps, breach, capsys, monkeypatch):
    signature = {"a_ptr": "*bf16", "b_ptr": "*bf16", "out_ptr": "*fp32", "K": "i32"}
    options = {"num_warps": warps, "num_stages": 3}
    entry = Entry("greedy", _greedy_kernel, signature, {"ROWS": rows, "DEPTH": depth}, options, is_matrix=True)
    monkeypatch.setattr(compile_report, "shipped", lambda capability: [entry])
    assert compile_report.main(["--arch", str(capability)]) == 1
    assert breach in capsys.readouterr().out
