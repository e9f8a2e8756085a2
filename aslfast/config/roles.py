"""The roles of a recipe: who plays, with which adapter, words, tags, tools and settings of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from aslfast.config.bounds import number
from aslfast.config.toml import parse
from aslfast.limits import MOST_TEMPERATURE, MOST_TOKENS, MOST_TURNS
from aslfast.prompts.tool_calls import searchers_in

BASE = "base"  # as `adapter`: the base alone
PREVIOUS = "@previous"  # ends the name of an adapter that is a copy of another one, made anew when a round begins
NO_TOOLS = ("none",)  # as `tools`
EVALUATED = "policy"  # the role that the evaluation's questions go to
_DEFAULT = "asl-qwen2.5-7b"


@dataclass(frozen=True, slots=True)
class RoleConfig:
    """One role, the table [roles.NAME]. What is empty or 0 is as for the whole run."""

    # the role whose adapter plays it, "NAME@previous": as that one was when the round began, or "base", the base alone;
    # empty: one of its own
    adapter: str = ""
    frozen: bool = False  # no phase trains its own adapter; a phase of one's own may still copy another one into it
    init_adapter: str = ""  # PEFT adapter folder that it starts from; empty: a fresh adapter, the base itself
    # what a phase of one's own asks it, with {gaps} that the phase fills; the shipped ones have files: model.prompts
    prompt: str = ""
    output: tuple[str, ...] = ("answer",)  # tags of its closing turn: of its output and, if any, of one beside it
    tools: tuple[str, ...] = ()  # of those that the run has, or model:ROLE; ["none"]: none
    depth: int = number(0, 0, 100)  # who waits for whom: of two that may sample, the deeper one goes first
    environment: bool = False  # an environment of one's own answers its turns
    temperature: float = number(0.0, 0.0, MOST_TEMPERATURE)
    max_turns: int = number(0, 0, MOST_TURNS)
    max_new_tokens: int = number(0, 0, MOST_TOKENS)  # a turn
    loss: Mapping[str, object] = field(default_factory=dict)  # keys of the table `loss`
    advantage: Mapping[str, object] = field(default_factory=dict)  # keys of the table `advantage`


def adapter_of(roles: Mapping[str, RoleConfig], name: str) -> str | None:
    """Return the adapter that plays a role; None: the base alone."""
    named = roles[name].adapter
    return None if named == BASE else named or name


def tools_of(roles: Mapping[str, RoleConfig], name: str, of_run: Sequence[str]) -> tuple[str, ...]:
    """Return the entries of `tools` that a role has: its own, or the run's; none for one that answers searches."""
    own = roles[name].tools
    if own == NO_TOOLS or name in searchers(roles, of_run):
        return ()
    return own or tuple(of_run)


def searchers(roles: Mapping[str, RoleConfig], of_run: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the roles that answer searches, as the entries `model:ROLE` say, each once."""
    entries = [*of_run, *(entry for role in roles.values() for entry in role.tools)]
    return tuple(searchers_in(entries))


@cache
def default_tables() -> dict[str, dict[str, object]]:
    """Return the tables [roles.NAME] of a recipe that names none of its own: those of asl-qwen2.5-7b."""
    text = (files("aslfast.config") / "recipes" / f"{_DEFAULT}.toml").read_text(encoding="utf-8")
    return parse(text)["roles"]


@cache
def default_roles() -> dict[str, RoleConfig]:
    """Return the roles that these tables are."""
    return {name: _role(table) for name, table in default_tables().items()}


def _role(table: Mapping[str, object]) -> RoleConfig:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return RoleConfig(**values)  # pyright: ignore[reportArgumentType]  # the recipe is ours


ROLES = tuple(default_tables())
