"""What the roles and phases of a recipe must have of each other."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from aslfast.config.learning import conflicts
from aslfast.config.roles import BASE, EVALUATED, NO_TOOLS, PREVIOUS, RoleConfig
from aslfast.config.schema import SFT, RunConfig
from aslfast.errors import UserError
from aslfast.plugins import is_import_path, name_in
from aslfast.prompts.tool_calls import MODEL, SEARCH, answers_search

Place = Callable[[str], str]  # a key -> what an error calls its origin


def check_roles(config: RunConfig, place: Place) -> None:
    """Raise UserError where a role refers to what is not there, or a phase to a role."""
    if EVALUATED not in config.roles:
        close = difflib.get_close_matches(EVALUATED, config.roles, 1, 0.6)
        meant = f"; did you mean 'roles.{EVALUATED}' with 'roles.{close[0]}'?" if close else ""
        what = f"the evaluation asks the role {EVALUATED}; add the table roles.{EVALUATED}"
        raise UserError(f"{place('roles')}: {what}, with the adapter of another role if it needs none{meant}")
    if BASE in config.roles:
        raise UserError(f"{place(f'roles.{BASE}')}: {BASE} names the base alone; rename the role")
    if not config.adapters:
        what = "no role has an adapter of its own, and nothing could learn"
        raise UserError(f"{place('roles')}: {what}; leave roles.{EVALUATED}.adapter empty, or another's")
    for name, role in config.roles.items():
        _check_adapter(config, name, role, place)
        _check_learning(name, role, place)
        _check_tools(config, name, role, place)
        learns = role.adapter if role.adapter in config.all_roles else name  # whose loss it learns by
        for _, what in conflicts(config.loss_of(learns), config.advantage_of(name)):
            raise UserError(f"{place(f'roles.{name}')}: with the settings of roles.{name}, {what}")
    for name in config.searchers:
        _check_searcher(config, name, place)
    if config.sft.role not in config.adapters and SFT in config.phases:
        raise _error("sft.role", config.sft.role, f"name a role with an adapter: {_listed(config.adapters)}", place)
    for phase in config.round_phases:
        if not is_import_path(phase) and phase not in config.roles:
            raise _error("phases", phase, f"add the table roles.{phase}", place)
    names = [name_in(phase) or phase for phase in config.round_phases]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UserError(f"{place('phases')}: phases has {twice} twice, and a round plays a phase of one name once")
    unused = set(config.own_phase) - {name_in(phase) for phase in config.phases}
    if unused:
        raise _error("own_phase", min(unused), "name it in phases as module:Name, or remove the table", place)


def _check_adapter(config: RunConfig, name: str, role: RoleConfig, place: Place) -> None:
    own = [other for other, one in config.all_roles.items() if not one.adapter]
    if role.adapter and role.adapter != BASE and role.adapter.removesuffix(PREVIOUS) not in own:
        what = f"leave it empty, or use {BASE} or a role with an adapter of its own: {_listed(own)}"
        raise _error(f"roles.{name}.adapter", role.adapter, what, place)
    if role.adapter and role.init_adapter:
        raise _error(f"roles.{name}.init_adapter", role.init_adapter, "set it where the adapter is a role's own", place)
    if role.adapter and role.frozen:
        raise _error(f"roles.{name}.frozen", True, "set it where the adapter is a role's own", place)


def _check_learning(name: str, role: RoleConfig, place: Place) -> None:
    """Raise UserError for settings of how to learn that nothing would read."""
    never = {BASE: "the base alone"}.get(role.adapter, "an earlier version" * role.adapter.endswith(PREVIOUS))
    if role.loss and role.adapter and not never:
        what = f"roles that share an adapter learn in one step, by one loss: set roles.{role.adapter}.loss"
        raise _error(f"roles.{name}.loss", role.loss, f"{what}, or leave roles.{name}.adapter empty", place)
    for key in ("loss", "advantage"):
        if never and (table := getattr(role, key)):
            what = f"{never} never learns: remove it, or leave roles.{name}.adapter empty"
            raise _error(f"roles.{name}.{key}", table, what, place)


def _check_tools(config: RunConfig, name: str, role: RoleConfig, place: Place) -> None:
    unknown = [tool for tool in role.tools if tool not in config.tools and not tool.startswith(MODEL)]
    if unknown and role.tools != NO_TOOLS:
        known = f'use ["none"], model:ROLE or some of {_listed(config.tools)}'
        raise _error(f"roles.{name}.tools", unknown[0], known, place)
    key, given = (f"roles.{name}.tools", role.tools) if role.tools else ("tools", config.tools)
    if len(both := {tool for tool in config.tools_of(name) if answers_search(tool)}) > 1:
        what = f"{_listed(sorted(both))} are each the tool {SEARCH} of the role {name}"
        raise _error(key, list(given), f"{what}; name one of them in roles.{name}.tools", place)


def _check_searcher(config: RunConfig, name: str, place: Place) -> None:
    """Raise UserError unless a role that is to answer searches can."""
    if name not in config.roles:
        callers = [caller for caller, role in config.roles.items() if MODEL + name in role.tools]
        key = f"roles.{callers[0]}.tools" if callers else "tools"
        raise _error(key, MODEL + name, f"name a role of the recipe: {_listed(config.roles)}", place)
    role = config.roles[name]
    if "{query}" not in role.prompt:
        what = "it answers searches; set what it is asked, with the gap {query}"
        raise _error(f"roles.{name}.prompt", role.prompt, what, place)
    if role.tools not in ((), NO_TOOLS):
        raise _error(f"roles.{name}.tools", list(role.tools), "it answers searches, and so has none: remove it", place)


def _error(key: str, value: object, remedy: str, place: Place) -> UserError:
    return UserError(f"{place(key)}: {key} is {value!r:.80}; {remedy}")


def _listed(names: object) -> str:
    return ", ".join(names) if names else "(none)"  # pyright: ignore[reportArgumentType, reportCallIssue]
