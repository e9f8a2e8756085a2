"""What a recipe names of the user's own, tried before anything is written. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from aslfast import plugins, rewards
from aslfast.config.learning import GROUP_KEYS, RESCALES
from aslfast.config.schema import RunConfig
from aslfast.core import Task
from aslfast.errors import UserError
from aslfast.plugins import Contract
from aslfast.prompts.templates import check_prompt_set
from aslfast.tools.named import load_tools

KEY = Contract("one aslfast.core.Task", "a text: tasks of equal texts are of one group", (Task("t", "policy", "p"),))
FACTORS = Contract(
    "lists of advantages, of rewards, of the numbers of the groups that they are of, and of outputs for a fourth",
    "a list of as many finite numbers, which the advantages are multiplied by",
    ([1.0, -1.0, 0.0], [1.0, 0.0, 1.0], [0, 0, 1], ["Oslo", "", "Rome"]),
)
Factors = Callable[[Sequence[float], Sequence[float], Sequence[int], Sequence[str]], list[float]]


def check_own_parts(config: RunConfig) -> None:
    """Import and try what the recipe names of the user's own: rewards, filters, prompts, tools. Raise UserError."""
    check_prompt_set(config.model.prompts)
    for entries in {config.tools, *map(config.tools_of, config.roles)}:
        load_tools(entries)
    rewards.policy_rule(config.policy.reward)
    rewards.generator_rule(config.generator.reward)
    rewards.question_filter(config.generator.accept)
    rewards.reference_source(config.generator.reference)
    rewards.label_source(config.grm.label)
    rewards.judge_rule(config.grm.reward, config.grm.variant)
    if config.advantage.group_by not in GROUP_KEYS:
        group_key(config.advantage.group_by)
    if config.advantage.rescale not in RESCALES:
        rescale_rule(config.advantage.rescale)


@cache
def group_key(path: str) -> Callable[[Task], str]:
    """Return the function of one's own that gives a task's group. Raise UserError."""
    return plugins.load_function(path, "advantage.group_by", KEY, plugins.text)


@cache
def rescale_rule(path: str) -> Factors:
    """Return the function of one's own that gives a factor for each advantage. Raise UserError."""
    takes = 4 if plugins.n_parameters(path, "advantage.rescale") == 4 else 3
    contract = replace(FACTORS, sample=FACTORS.sample[:takes])
    rule = plugins.load_function(path, "advantage.rescale", contract, _finite_numbers)

    def checked(
        advantages: Sequence[float], rewards: Sequence[float], groups: Sequence[int], outputs: Sequence[str]
    ) -> list[float]:
        found = rule(*(advantages, rewards, groups, outputs)[:takes])
        if len(found) != len(advantages):
            what = f"returned {len(found)} numbers for {len(advantages)} advantages"
            raise UserError(f"advantage.rescale: {path} {what}; it takes {FACTORS.takes} and returns {FACTORS.gives}")
        return found

    checked(*FACTORS.sample)
    return checked


def _finite_numbers(given: object) -> list[float]:
    if not isinstance(given, list | tuple):
        raise ValueError(repr(given)[:100])
    return [plugins.finite_number(number) for number in given]
