"""What each alarm may mean, and what to do, as the user reads it. docs/monitor.md."""

from __future__ import annotations

from collections.abc import Mapping

_TRAIN_THE_JUDGE = "let the judge learn too (grm.learn), take its labels by majority or consensus (grm.label)"
_BETTER_JUDGE = "start from a better one (roles.grm.init_adapter), or from a prompt that it can follow (grm.variant)"

MEANINGS: Mapping[str, str] = {
    "judge_truth_gap": "the judge passes wrong held-out answers, which the policy may learn to write: "
    f"{_TRAIN_THE_JUDGE}",
    "true_gap": f"the policy is rewarded for wrong answers, so it is learning to please the judge: {_TRAIN_THE_JUDGE}",
    "judge_agreement": "on the policy's answers the judge is near a coin flip or worse, and its verdicts teach noise: "
    f"{_BETTER_JUDGE}; {_TRAIN_THE_JUDGE}",
    "grm_accuracy": f"the judge is near a coin flip or worse, and its verdicts teach noise: {_BETTER_JUDGE}; "
    f"{_TRAIN_THE_JUDGE}",
    "verdict_bias": "the judge gives nearly the same verdict to right and wrong answers: check that its labels hold "
    f"both sides; {_TRAIN_THE_JUDGE}",
    "accuracy_drop": "the policy answers worse than in its best round: go on from that round's adapters "
    "(roles.policy.init_adapter) with a lower learner.learning_rate, and look at the judge's metrics",
    "question_diversity": "the generator repeats itself, and the policy learns a few questions by heart: more topics "
    "(data.topics), a reward for difference (generator.reward=r_zero), fewer generator.steps",
    "new_question_rate": "hardly any question is new and passes the acceptance filter: look at the generator's "
    "trajectories; generator.min_acceptance may be too high, data.topics too few",
    "solvable_share": "most questions have no answer or a wrong one: a higher generator.min_acceptance, a better "
    "judge, labels that do not trust the reference (grm.label=majority)",
    "entropy": "the role hardly varies its samples, so groups are equal and teach nothing: a higher "
    "sampler.temperature, a lower learner.learning_rate, fewer steps",
    "length": "the role's texts grow or shrink out of proportion: read some of its trajectories; a longer text may "
    "please the judge, a shorter one may skip the search",
    "finished": "many trajectories end without an output: read their stop reasons; sampler.max_new_tokens or "
    "sampler.max_turns may be too low, or the role has lost the format (format_weight)",
    "repeated_queries": "the role repeats its searches instead of reading what they found: read its trajectories; with "
    "fewer turns (sampler.max_turns) repeating costs it the answer",
}
