"""These tests run in a session of their own (tests/test_triton_kernels.py starts it): the choice between the
interpreter and the compiler is made once per process. Without either, nothing here is collected."""

from tests.kernels.triton import interpreter

if not interpreter.RUNNABLE:
    collect_ignore_glob = ["test_*.py"]
elif interpreter.DEVICE == "cpu":
    interpreter.mend_bfloat16()
