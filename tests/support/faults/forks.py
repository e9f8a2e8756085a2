"""Work in forked children, which may be killed at any call that touches files."""

import os
import signal
import sys
from collections.abc import Callable

FILE_CALLS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "fcntl.flock"}


def in_child(work: Callable[[], object]) -> int:
    """Fork; return the child's process id. The child ends with 0 if the work raises nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ends_well(child: int) -> bool:
    """Wait for the child; return whether it ended with 0."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def killed_at(n: int, work: Callable[[], object]) -> bool:
    """Run the work in a child that kills itself at its n-th call that touches files; False once it makes fewer."""

    def child() -> None:
        seen = 0

        def step(event: str, _: object) -> None:
            nonlocal seen
            if event in FILE_CALLS:
                seen += 1
                if seen == n:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(step)
        work()

    return not ends_well(in_child(child))
