"""Triton on a CPU: its interpreter, mended for bfloat16.

The interpreter keeps bfloat16 as uint16 and so multiplies, adds and contracts the bit patterns as integers; its
float32 -> bfloat16 cast truncates where the hardware rounds to nearest even. Both are silent.
"""

from __future__ import annotations

import os

import torch

# On the GPU where there is one; elsewhere in the interpreter, which must be chosen before kernels are imported.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUNNABLE = DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def mend_bfloat16() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def wide(handle):
        """The handle with float32 values where it holds bfloat16."""
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def narrow(data):
        bits = np.ascontiguousarray(data, dtype=np.float32)
        rounded = torch.from_numpy(bits).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return TensorHandle(rounded.reshape(np.shape(data)), tl.bfloat16)

    def over_float32(original):
        """For `op(self, *handles, numpy_function)`: bfloat16 results are rounded, comparisons stay as they are."""

        def mended(self, *args):
            handles, function = args[:-1], args[-1]
            if all(handle.dtype.scalar != tl.bfloat16 for handle in handles):
                return original(self, *args)
            result = original(self, *(wide(handle) for handle in handles), function)
            return narrow(result.data) if result.data.dtype == np.float32 else result

        return mended

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def mended_cast(self, source, target_type):
        if tl.bfloat16 not in (source.dtype.scalar, target_type.scalar):
            return cast(self, source, target_type)
        widened = wide(source)
        return narrow(widened.data) if target_type.scalar == tl.bfloat16 else cast(self, widened, target_type)

    fp_to_fp = InterpreterBuilder.create_fp_to_fp

    def mended_fp_to_fp(self, source, target_type, rounding_mode):
        if tl.bfloat16 in (source.dtype.scalar, target_type.scalar):
            return mended_cast(self, source, target_type)
        return fp_to_fp(self, source, target_type, rounding_mode)

    def mended_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        return dot(self, wide(a), wide(b), d, input_precision, max_num_imprecise_acc)

    InterpreterBuilder.cast_impl = mended_cast
    InterpreterBuilder.create_fp_to_fp = mended_fp_to_fp
    InterpreterBuilder.create_dot = mended_dot
    InterpreterBuilder.binary_op = over_float32(InterpreterBuilder.binary_op)
    InterpreterBuilder.unary_op = over_float32(InterpreterBuilder.unary_op)
    InterpreterBuilder.ternary_op = over_float32(InterpreterBuilder.ternary_op)
