"""Rewards and their parts: pure functions of texts, verdicts and trajectories. Needs no torch.

Reading a closing turn (strictly: aslfast/prompts/parsing.py): verdict, grade, answer, question. An answer against
references: normalize, exact_match, spellings, substring_match, contains_match, cover_match, f1. Verdicts:
verdict_entropy, majority, accepted. Each role's rewards by the name that a recipe gives: GENERATOR_REWARDS,
GRM_REWARDS, POLICY_REWARDS; labels for the judge: LABELS; a question's reference answer: REFERENCES. docs/rewards.md
has every formula with its source and how it differs here.
"""

from aslfast.core import Attempt
from aslfast.prompts.parsing import WrittenQuestion, answer, grade, question, valid_question, verdict
from aslfast.rewards.distractors import plausible_wrong
from aslfast.rewards.format import format_reward
from aslfast.rewards.generator import GENERATOR_REWARDS, QuestionEvidence, question_evidence, share_failed
from aslfast.rewards.judge import GRM_REWARDS, offered
from aslfast.rewards.labels import LABELS, REFERENCES, Labels, balanced, gold_labels
from aslfast.rewards.match import contains_match, cover_match, exact_match, f1, normalize, spellings, substring_match
from aslfast.rewards.named import (
    generator_reward,
    generator_rule,
    grm_reward,
    judge_rule,
    label_source,
    policy_reward,
    policy_rule,
    question_filter,
    reference_source,
)
from aslfast.rewards.near_duplicates import distinct_questions, question_similarity
from aslfast.rewards.policy import ENVIRONMENT, JUDGED, POLICY_REWARDS, AnswerEvidence, rank_of
from aslfast.rewards.repetition import repetition_shares, sentence_bleu
from aslfast.rewards.verdicts import (
    accepted,
    accuracy,
    as_label,
    favourable,
    majority,
    verdict_entropy,
    verdict_score,
)

__all__ = [
    "ENVIRONMENT", "GENERATOR_REWARDS", "GRM_REWARDS", "JUDGED", "LABELS", "POLICY_REWARDS", "REFERENCES",
    "AnswerEvidence", "Attempt", "Labels", "QuestionEvidence", "WrittenQuestion", "accepted", "accuracy", "answer",
    "as_label",
    "balanced", "contains_match", "cover_match", "distinct_questions", "exact_match", "f1", "favourable",
    "format_reward", "generator_reward", "generator_rule", "gold_labels", "grade", "grm_reward", "judge_rule",
    "label_source", "majority", "normalize", "offered", "plausible_wrong", "policy_reward", "policy_rule", "question",
    "question_evidence", "question_filter", "question_similarity", "rank_of", "reference_source", "repetition_shares",
    "sentence_bleu", "share_failed", "spellings", "substring_match", "valid_question", "verdict", "verdict_entropy",
    "verdict_score",
]  # fmt: skip
