"""What a recipe names of the user's own, tried before anything is written. Loads no torch."""

from __future__ import annotations

from aslfast import rewards
from aslfast.config.schema import RunConfig
from aslfast.prompts.templates import check_prompt_set
from aslfast.tools.named import load_tools


def check_own_parts(config: RunConfig) -> None:
    """Import and try what the recipe names of the user's own: rewards, filters, prompts, tools. Raise UserError."""
    check_prompt_set(config.model.prompts)
    load_tools(config.tools)
    rewards.policy_rule(config.policy.reward)
    rewards.generator_rule(config.generator.reward)
    rewards.question_filter(config.generator.accept)
    rewards.reference_source(config.generator.reference)
    rewards.label_source(config.grm.label)
    rewards.judge_rule(config.grm.reward, config.grm.variant)
