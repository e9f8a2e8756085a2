"""A made-up run's folder for the page: three roles, hostile texts, a question with attempts, an alarm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from aslfast.checkpoint.commits import Commit, Provenance
from aslfast.checkpoint.ledger import Ledger
from aslfast.checkpoint.run_dir import LEDGER
from aslfast.config import load_recipe, to_toml
from aslfast.core import Reward, StopReason, Task, Trajectory, Turn
from aslfast.data.trajectories import Record, write_trajectories
from aslfast.files.shipped import LAB_BASE
from tests.support.run_files import round_line, write_run

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> & ümläut'
QUESTION = "what is the genre of Lumi Borpur?"
ALARM = {"name": "entropy of the policy", "figure": 0.01, "threshold": 0.02, "meaning": "the policy repeats itself"}
ROOT = Path(__file__).parents[3]
TOKENIZER = Tokenizer.from_file(str(LAB_BASE / "tokenizer.json"))


def trajectory(task: Task, turns, output=None, stop=StopReason.FINISHED) -> Trajectory:
    """Return a trajectory of (kind, text) turns, in the lab's tokens; sampled ones have a log-prob of -0.5."""
    ids, mask, made = [], [], []
    for kind, text in turns:
        new = TOKENIZER.encode(text, add_special_tokens=False).ids
        made.append(Turn(kind, len(ids), len(ids) + len(new), text, passages=("p1", "p2") if kind == "tool" else ()))
        ids += new
        mask += [int(kind == "sampled")] * len(new)
    logprobs = tuple(-0.5 * m for m in mask)
    return Trajectory(task, tuple(ids), tuple(mask), logprobs, tuple(made), stop, output)


def policy_record(number: int, step: int, answer: str | None, passage: str = "Lumi Borpur has genre satire.") -> Record:
    """Return an attempt at QUESTION: the number-th task of a step, right if the answer is satire."""
    task = Task(f"p{step}-{number}", "policy", f"answer: {QUESTION}", QUESTION, ("satire",))
    call = '<think> find it</think><tool_call>{"name": "search", "arguments": {"query": "Lumi"}}</tool_call>'
    said = f"<think> so</think><answer> {answer}</answer>" if answer else "no idea"
    turns = [("prompt", task.prompt), ("sampled", call), ("tool", passage), ("sampled", said)]
    stop = StopReason.FINISHED if answer else StopReason.NO_OUTPUT
    reward = Reward({"judge": float(answer == "satire"), "format": 0.05 if answer else 0.0})
    return Record(trajectory(task, turns, answer, stop), reward, 1, step)


def judge_record(verdict: str, label: str) -> Record:
    """Return a verdict on an answer to QUESTION."""
    task = Task(f"v1-{label}", "grm", f"judge: {QUESTION} answer: satire", QUESTION, (label,))
    turns = [("prompt", task.prompt), ("sampled", f"<verdict> {verdict}</verdict>")]
    return Record(trajectory(task, turns, verdict), Reward({"match": float(verdict == label)}), 1, 1)


def step_line(phase: str, step: int, round_number: int = 1) -> dict[str, object]:
    """Return a line of metrics.jsonl."""
    shown = {"reward": 0.1 * step, "entropy": 0.2, "tokens": 12.0, "zero_variance_groups": 0.5, "grad_norm": 0.03}
    timed = {"seconds": 1.5, "tokens_per_s": 900.0, "sampled_tokens": 1350, "forward_tokens": 800, "shared_tokens": 90}
    used = {"time": {"rollout": 1.0, "tool": 0.25, "learn": 0.5, "evaluation": 2.0}, "mfu": 0.125, "learn_flops": 1e9,
            "in_flight": {"requests": 48, "tokens": 9000, "mean_requests": 30.5}, "peak_memory_gb": 1.25}  # fmt: skip
    return {"round": round_number, "phase": phase, "step": step, **shown, **timed, **used}


def policy_records(steps: int, groups: int, size: int = 4) -> list[Record]:
    """Return the attempts of a phase: in each group one is right; one passage is hostile, one attempt has no answer."""
    answers = ["satire", "memoir", "memoir", None, "drama", "memoir", "drama", "memoir"]
    made = [
        policy_record(g, s, answers[i % 8], *([HOSTILE] if (s, g, i) == (1, 0, 1) else []))
        for s in range(1, steps + 1) for g in range(groups) for i in range(size)
    ]  # fmt: skip
    return made


def write_page_run(folder: Path, records: dict[str, list[Record]] | None = None) -> Path:
    """Write a run of one round with trajectories by phase, a ledger with a question, and an alarm."""
    rounds = [round_line(0, 0.4, 0.7, (0.4,)), {**round_line(1, 0.5, 0.75, (0.5,)), "alarms": [ALARM], "pool": 1}]
    steps = [step_line("grm", 1), step_line("policy", 1), step_line("policy", 2)]
    run = write_run(folder, rounds, steps)
    (run / "config.toml").write_text(to_toml(load_recipe("tiny")))
    (run / "trajectories").mkdir()
    (run / "steps").mkdir()
    judged = [judge_record("correct", "correct"), judge_record("correct", "wrong")]
    for phase, made in (records or {"grm": judged, "policy": policy_records(2, 2)}).items():
        write_trajectories(run / "trajectories" / f"round-001-{phase}.parquet", made)
    _write_ledger(run)
    return run


@contextmanager
def watching(run: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serve a run's live page in a process of its own; give its address and the process."""
    command = [sys.executable, "-m", "aslfast", "watch", str(run), "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert line.startswith(f"watching {run} at http://127.0.0.1:")
        yield line.split()[-1], server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def _write_ledger(run: Path) -> None:
    attempts = [{"answer": "satire", "verdicts": ["correct", "wrong"]}, {"answer": None, "verdicts": []}]
    stored = {"id": "q1", "text": QUESTION, "references": ["satire"], "hops": 1, "fold": 0, "round": 1}
    ledger = Ledger(run / LEDGER)
    ledger.append(Commit("run_started", provenance=Provenance({"model.path": "1234"}, {"torch": "2.13.0"})))
    ledger.append(Commit("step", {"pool": {QUESTION: {**stored, "attempts": attempts}}}))
    ledger.close()


def table_of(meta: dict) -> list[dict]:
    """Return the lines of a page's table, each with its texts."""
    texts = meta["texts"]

    def said(name, values):
        return [texts[value] if name in meta["text_columns"] and value is not None else value for value in values]

    named = {name: said(name, values) for name, values in meta["table"].items()}
    return [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]


def lines(run: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]
