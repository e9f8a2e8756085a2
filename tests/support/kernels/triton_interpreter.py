"""Triton on a CPU: its interpreter, corrected for bfloat16 and without work that has no effect.

The interpreter keeps bfloat16 as uint16 and so multiplies, adds and contracts the bit patterns as integers; its
float32 -> bfloat16 cast truncates where the hardware rounds to nearest even. Both are silent.

It also spends two thirds of its time without effect. Every call of a device function wraps each function of
triton.language in one more layer that is never removed. Every int32 sum and product is computed again in int64 for an
overflow check that runs only in debug mode.
"""

from __future__ import annotations

import os
import types

import torch

# On the GPU where there is one; elsewhere in the interpreter, which must be chosen before kernels are imported.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def patch() -> None:
    """Correct and speed up the interpreter of this process, and give it a card of small tiles."""
    _patch_language_once()
    _patch_bfloat16()
    _use_small_tiles()


def _use_small_tiles() -> None:
    """Several tiles in each direction at the tests' sizes, with fewer rows beyond the last token than the shipped."""
    from aslfast_kernels import cards

    tile = cards.Tile(32, 256, 32, warps=8, stages=2)
    cards.INTERPRETED = cards.Card(227 * cards.KIB, tile, tile, tma=True)


def _patch_language_once() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    sees_both = types.FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core})
    interpreter._patch_lang(sees_both)
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()  # restores what it changed: nothing
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


def _patch_bfloat16() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def wide(handle):
        """Return the handle with float32 values where it holds bfloat16."""
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def narrow(data):
        bits = np.ascontiguousarray(data, dtype=np.float32)
        rounded = torch.from_numpy(bits).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return TensorHandle(rounded.reshape(np.shape(data)), tl.bfloat16)

    def over_float32(original):
        """Wrap `op(self, *handles, numpy_function)`: bfloat16 results are rounded, comparisons stay as they are."""

        def patched(self, *args):
            handles, function = args[:-1], args[-1]
            if all(handle.dtype.scalar != tl.bfloat16 for handle in handles):
                return original(self, *args)
            result = original(self, *(wide(handle) for handle in handles), function)
            return narrow(result.data) if result.data.dtype == np.float32 else result

        return patched

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot
    fp_to_fp = InterpreterBuilder.create_fp_to_fp

    def patched_cast(self, source, target_type):
        if tl.bfloat16 not in (source.dtype.scalar, target_type.scalar):
            return cast(self, source, target_type)
        widened = wide(source)
        return narrow(widened.data) if target_type.scalar == tl.bfloat16 else cast(self, widened, target_type)

    def patched_fp_to_fp(self, source, target_type, rounding_mode):
        if tl.bfloat16 in (source.dtype.scalar, target_type.scalar):
            return patched_cast(self, source, target_type)
        return fp_to_fp(self, source, target_type, rounding_mode)

    def patched_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        return dot(self, wide(a), wide(b), d, input_precision, max_num_imprecise_acc)

    InterpreterBuilder.cast_impl = patched_cast
    InterpreterBuilder.create_fp_to_fp = patched_fp_to_fp
    InterpreterBuilder.create_dot = patched_dot
    InterpreterBuilder.binary_op = over_float32(InterpreterBuilder.binary_op)
    InterpreterBuilder.unary_op = over_float32(InterpreterBuilder.unary_op)
    InterpreterBuilder.ternary_op = over_float32(InterpreterBuilder.ternary_op)
