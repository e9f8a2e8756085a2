"""A recipe in which a role answers the policy's searches, and the others search the index."""

from aslfast.config import load_recipe

ROLES = (
    'roles.policy.tools=["model:searcher"]', 'roles.searcher.prompt="recall: {query}"',
    "roles.searcher.temperature=0.5", "roles.searcher.max_new_tokens=40",
    'roles.generator.output=["question", "answer"]', 'roles.grm.output=["verdict"]',
)  # fmt: skip
LIMITS = ("sampler.max_context=2000", "tool.max_passage_chars=30")


def recipe(*settings):
    return load_recipe("tiny", [*ROLES, *LIMITS, *settings])
