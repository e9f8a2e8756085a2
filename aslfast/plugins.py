"""Code of one's own that a recipe names by import path, `module:name`: rewards, labels, filters, tools, environments.

It runs in this process with all its rights: name only what you trust. The working folder is on the import path.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any, TypeVar

from aslfast.errors import UserError

T = TypeVar("T")

LIMIT_S = 60.0  # of one call of a function of one's own
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_import_path(name: str) -> bool:
    """Return whether a name has the form `module:name`."""
    return IMPORT_PATH.fullmatch(name) is not None


@cache
def load_object(path: str, key: str) -> Any:
    """Import `module:name`; `key` is what names it, for errors. Raise UserError."""
    if not is_import_path(path):
        raise UserError(f"{key} is {path!r}; write module:name, for example my_code:my_function")
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        written = f"; write {module_name[:-3]}:{name}" if module_name.endswith(".py") else ""
        where = written or "; run in the folder that holds it, or install it"
        raise UserError(f"{key}: no module {error.name!r}{where}") from None
    except (Exception, SystemExit) as error:  # one that exits must not end a run as if it were done
        raise UserError(f"{key}: importing {module_name!r} raised {described(error)}") from None
    if not hasattr(module, name):
        raise UserError(f"{key}: {module_name!r} ({module.__file__}) has no {name!r}")
    return getattr(module, name)


def source_file(path: str, key: str) -> str:
    """Return the file that an object at an import path is from; empty for a builtin. Raise UserError."""
    load_object(path, key)
    return getattr(sys.modules[path.partition(":")[0]], "__file__", None) or ""


def described(error: BaseException) -> str:
    """Return an error on one line, with the place where it was raised."""
    frames = () if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)  # it says where it is
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


@dataclass(frozen=True, eq=False)
class Contract:
    """What a function of one's own takes and gives, in words; `sample` are arguments to try it with, `rare` others that
    are easily forgotten."""

    takes: str
    gives: str
    sample: tuple[Any, ...]
    rare: tuple[Any, ...] = ()


def n_parameters(path: str, key: str) -> int:
    """Return how many parameters the function at an import path has; 0 where it does not tell. Raise UserError."""
    try:
        return len(inspect.signature(load_object(path, key)).parameters)
    except (TypeError, ValueError):
        return 0


def load_function(path: str, key: str, contract: Contract, check: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return the function at an import path, tried once with the sample. Raise UserError.

    What it returns passes through `check`, which raises ValueError for what is not what the contract gives. A call that
    raises, runs for over a minute or returns something else raises UserError, which names the function.
    """
    function = load_object(path, key)
    wanted = f"it takes {contract.takes} and returns {contract.gives}"
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise UserError(f"{key}: {path} is no plain function; {wanted}")
    with contextlib.suppress(ValueError):  # a builtin without a signature
        try:
            inspect.signature(function).bind(*contract.sample)
        except TypeError as error:
            raise UserError(f"{key}: {path} {error}; {wanted}") from None

    def call(*arguments: Any) -> Any:
        try:
            with time_limit(LIMIT_S):
                given = function(*arguments)
        except (Exception, SystemExit) as error:
            raise UserError(f"{key}: {path} raised {described(error)}") from None
        try:
            return check(given)
        except ValueError as error:
            raise UserError(f"{key}: {path} returned {error}; {wanted}") from None

    call(*contract.sample)
    if contract.rare:
        _call_rare(call, contract.rare)
    return call


def _call_rare(call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call a function with what is easily forgotten. Raise UserError, which says what that was."""
    try:
        call(*arguments)
    except UserError as error:
        raise UserError(f"{error}, when it was tried with {', '.join(map(repr, arguments))}") from None


def name_in(path: str) -> str:
    """Return the name of `module:name`."""
    return path.partition(":")[2]


def make_instance(path: str, key: str, parent: type[T], arguments: Sequence[Any], limit_s: float) -> T:
    """Return an instance of the subclass of `parent` at an import path. Raise UserError."""
    wanted = load_object(path, key)
    if not (isinstance(wanted, type) and issubclass(wanted, parent)):
        raise UserError(f"{key}: {path} is no subclass of {parent.__module__}.{parent.__name__}; make it one")
    try:
        with time_limit(limit_s):
            return wanted(*arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{key}: {path} raised {described(error)} when it was made") from None


def text(given: object) -> str:
    """Return a text. Raise ValueError for anything else."""
    if not isinstance(given, str):
        raise ValueError(repr(given)[:100])
    return given


def finite_number(given: object) -> float:
    """Return a number as a float. Raise ValueError for NaN, an infinity or what is no number."""
    if isinstance(given, bool | int | float) and math.isfinite(given):
        return float(given)
    raise ValueError(repr(given)[:100])


def finite_parts(given: object) -> dict[str, float]:
    """Return a reward's parts by name, of a number or a mapping. Raise ValueError."""
    if not isinstance(given, Mapping):
        return {"reward": finite_number(given)}
    if not given or not all(isinstance(name, str) for name in given):
        raise ValueError(repr(given)[:100])
    return {name: finite_number(value) for name, value in given.items()}


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds; on the main thread alone, which can be interrupted."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"no result within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
