"""Keys that an earlier version had under another name: an error that meets one names the key of today."""

from __future__ import annotations

RENAMED = {
    "advantage.drop_flat": "advantage.drop_zero_variance",
    "generator.accept_share": "generator.min_acceptance",
    "generator.attempts": "generator.rollouts_per_question",
    "generator.keep": "generator.pass_rate_range",
    "generator.questions": "generator.target_questions",
    "generator.samples": "generator.group_size",
    "generator.tasks": "generator.prompts_per_step",
    "grm.plateau": "grm.plateau_window",
    "grm.real_from": "grm.gold_label_from_round",
    "grm.real_share": "grm.gold_label_fraction",
    "grm.samples": "grm.group_size",
    "grm.tasks": "grm.prompts_per_step",
    "learner.checkpointing": "learner.activation_checkpointing",
    "learner.max_skipped": "learner.max_skipped_steps",
    "monitor.probe": "monitor.judge_probe",
    "policy.plateau": "policy.plateau_window",
    "policy.pool": "policy.max_questions",
    "policy.questions": "policy.question_source",
    "policy.samples": "policy.group_size",
    "policy.tasks": "policy.prompts_per_step",
    "policy.verdicts": "policy.verdicts_per_answer",
    "ranks": "distributed",
    "ranks.shard": "distributed.model_parallel_size",
    "ranks.timeout_s": "distributed.timeout_s",
    "sampler.gpu_memory": "sampler.gpu_memory_fraction",
    "sampler.max_rows": "sampler.max_running_requests",
    "tool.gone_after_s": "tool.give_up_after_s",
}


def renamed_key(tree: object, prefix: str = "") -> str | None:
    """Return the first key of a configuration's tree that has another name today; None where it has none."""
    if not isinstance(tree, dict):
        return None
    for key, value in tree.items():
        if prefix + key in RENAMED:
            return prefix + key
        if found := renamed_key(value, f"{prefix}{key}."):
            return found
    return None
