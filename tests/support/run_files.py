"""The two files of lines that a run leaves, written by hand."""

import json

from aslfast.metrics.scoring import Proportion


def round_line(number, policy, grm, hops):
    shares = {str(h): {"accuracy": p, "low": 0.0, "high": 1.0, "n": 100} for h, p in enumerate(hops, 1)}
    line = {"round": number, "policy_accuracy": policy, "by_hops": shares, "grm_accuracy": grm, "n_eval": 300}
    for truth, value, n in (("policy", policy, 300), ("grm", grm, 300), ("solvable", 0.5, 150)):
        if value is not None:
            share = Proportion.of(value * n, n)
            line[f"{truth}_interval"] = [share.low, share.high]
    return {**line, "solvable_share": None if grm is None else 0.5, "seconds": 81.4}


def write_run(folder, rounds, steps):
    folder.mkdir()
    for name, lines in (("rounds.jsonl", rounds), ("metrics.jsonl", steps)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
