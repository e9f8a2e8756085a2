"""Shapes of long trajectories: tool texts as a real index answers real questions, the model's own turns assumed.

    python -m bench.learner.search_lengths IDX --questions questions.parquet --out bench/shapes/search.json

No 7B policy was run for this. Real are the prompt set `full`, the questions, and the texts of the top 3 passages that
BM25 finds for them, counted at 4 characters a token. Assumed are one to three searches, each for another question of
the file in place of a follow-up; 60 +- 30 tokens of thought and call before each; 120 +- 60 in the last turn; and that
the trajectories of a group share their prompt alone.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import pyarrow.parquet as pq

from aslfast.core import Question
from aslfast.index.bm25 import BM25Index
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.templates import prompt_text
from aslfast.prompts.tool_calls import search_call
from aslfast.rollout.search_tool import SearchTool
from bench.learner.trajectory_lengths import Shape, save

CHARS_PER_TOKEN = 4


def n_tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return -(-len(text) // CHARS_PER_TOKEN)


def step_of(tool: SearchTool, questions: list[str], groups: int, group_size: int, rng: random.Random) -> list[Shape]:
    """Return the shapes of one optimizer step."""
    shapes: list[Shape] = []
    system, builder = prompt_text("full", "system"), PromptBuilder("full")
    for question in rng.sample(questions, groups):
        prompt = n_tokens(system + builder.policy("t", Question("t", question)).prompt)
        for i in range(group_size):
            queries = [question, *rng.sample(questions, 2)][: rng.choice((1, 2, 3))]
            found = tool.answer([search_call(query) for query in queries])
            turns = [n for each in found for n in (rng.randint(30, 90), n_tokens(each.text))]
            shapes.append([prompt if i else 0, prompt, *turns, rng.randint(60, 180)])
    return shapes


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tool, rng = SearchTool(BM25Index.open(args.index)), random.Random(args.seed)
    questions = pq.read_table(args.questions, columns=["question"]).column(0).to_pylist()
    steps = [step_of(tool, questions, args.groups, args.group_size, rng) for _ in range(args.steps)]
    size = f"{args.groups} questions x {args.group_size} trajectories"
    origin = f"bench/learner/search_lengths.py, {args.questions.name}, {size}, seed {args.seed}: see there"
    save(args.out, origin, steps)


if __name__ == "__main__":
    main()
