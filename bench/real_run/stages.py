"""The stages of a real run, in order, with about what each takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aslfast.config.roles import ROLES
from aslfast.errors import UserError
from aslfast.files.atomic import write_text
from aslfast.files.jsonl import append_line
from aslfast.systems.registry import plan_of
from bench.real_run.folder import READING, RunFolder, adapters_of, cold_adapters
from bench.real_run.pipeline import Stage
from bench.real_run.settings import RealSettings, asl_config, cold_config, practice_config, rule_config
from bench.shared.stamp import now

EVALUATIONS = {  # name -> how a person calls it
    "untouched": "the untouched model",
    "cold-start": "after the cold start",
    "rule": "after the loop with rule reward",
    "asl": "after the ASL rounds",
}
# the policy starts from the adapter that has practised reading, the other two from the policy's
LEARNT_FIRST: tuple[str, ...] = ("policy", "grm", "generator")
# forward passes that a trajectory, a demonstration and an optimizer step's share of one cost, in tokens, about
SAMPLED, DEMONSTRATED, LEARNT = 800.0, 1500.0, 300.0
DEMONSTRATIONS = {"generator": 0.5, "grm": 1.25, "policy": 0.62}  # a question: where the key words find its passage
DEMONSTRATION_TOKENS, PRACTISED = 420, 95  # tokens of a demonstration, and of a question of the reading practice
SECONDS_A_DEMONSTRATION = 0.02


@dataclass(frozen=True)
class RealRun:
    """A run by its settings, in its folder. test: evaluate on the test split too, at the end."""

    settings: RealSettings
    folder: RunFolder
    test: bool = False

    def stages(self) -> list[Stage]:
        """Return all stages."""
        test = [self._retrieval_stage("test"), *self._evaluations("test")] if self.test else []
        return [*self._prepare(), *self._learn(), *test]

    def _prepare(self) -> Iterator[Stage]:
        yield Stage("model", "convert the model", self._model, seconds=30)
        yield Stage("split", "split the questions by title", self._split, seconds=5)
        yield Stage("index", "index the passages", self._index, seconds=15)
        yield self._retrieval_stage("dev")

    def _retrieval_stage(self, split: str) -> Stage:
        title = f"what search finds by the questions of {split}"
        return Stage(f"retrieval-{split}", title, partial(self._retrieval, split), seconds=5)

    def _learn(self) -> Iterator[Stage]:
        size, evaluations = self.settings.size, {e.name: e for e in self._evaluations("dev")}
        config = asl_config(self.settings, self.folder, dict.fromkeys(ROLES, Path("-")))
        per_step = {phase.name: phase.per_step for phase in plan_of(config)}
        yield evaluations["untouched-dev"]
        if not self.settings.cold_start:
            yield from self._reading()
            for role in LEARNT_FIRST:
                yield from self._cold_start(role)
        yield evaluations["cold-start-dev"]
        evaluated = (size.rule_rounds + 1) * size.loop_questions * SAMPLED
        played = size.rule_rounds * size.rule_steps * config.policy.prompts_per_step * config.policy.group_size
        yield Stage("rule", "the loop with rule reward", self._rule, evaluated + played * (SAMPLED + LEARNT))
        yield evaluations["rule-dev"]
        evaluated = 2 * (size.asl_rounds + 1) * size.loop_questions * SAMPLED
        played = size.asl_rounds * sum(n * per_step[role] for role, n in zip(ROLES, size.asl_steps, strict=True))
        yield Stage("asl", "the ASL rounds, without labels", self._asl, evaluated + played * (SAMPLED + LEARNT))
        yield evaluations["asl-dev"]

    def _reading(self) -> Iterator[Stage]:
        n = self.settings.size.practised
        yield Stage("demos-reading", "reading practice", self._practise, seconds=n * SECONDS_A_DEMONSTRATION)
        tokens = n * PRACTISED * DEMONSTRATED / DEMONSTRATION_TOKENS * self.settings.size.epochs
        yield Stage("sft-reading", "read passages", self._read, tokens, learns=True)

    def _cold_start(self, role: str) -> Iterator[Stage]:
        name = {"policy": "policy", "grm": "judge", "generator": "generator"}[role]
        n = self.settings.size.demonstrations(role)
        tokens = n * DEMONSTRATIONS[role] * DEMONSTRATED * self.settings.size.epochs
        demonstrate = partial(self._demonstrate, role)
        yield Stage(f"demos-{role}", f"demonstrations of the {name}", demonstrate, seconds=n * SECONDS_A_DEMONSTRATION)
        yield Stage(f"sft-{role}", f"cold start of the {name}", partial(self._fine_tune, role), tokens, learns=True)

    def _evaluations(self, split: str) -> Iterator[Stage]:
        size = self.settings.size
        n = size.questions(split)
        for name, title in EVALUATIONS.items():
            judged = 3 * min(size.judged_questions, n) if name in ("cold-start", "asl") else 0
            run = partial(self._evaluate, name, split)
            yield Stage(f"{name}-{split}", f"evaluate {title} on {split}", run, SAMPLED * (n + judged))

    # --- the work of each: heavy libraries are loaded in the stage's own process --------------------------------

    def _model(self) -> None:
        if self.settings.model_folder(self.folder) != str(self.folder.model) or self.folder.model.exists():
            return
        from aslfast.cli.adapters.model import make_model

        make_model(self.settings.model, self.folder.model, "float32")

    def _split(self) -> None:
        from bench.real_run.split import write_splits

        data = Path(self.settings.data)
        write_splits(data / "passages.parquet", data / "questions.parquet", self.settings.size.least, self.folder.path)

    def _index(self) -> None:
        from aslfast.cli.index import build, effort
        from aslfast.index.options import Similarity

        if not self.folder.index.exists():
            corpus, similarity = [Path(self.settings.data) / "passages.parquet"], Similarity("english", 0.9, 0.4)
            build(corpus, self.folder.index, similarity, effort(self.settings.threads, None), quiet=False)

    def _retrieval(self, split: str) -> None:
        from aslfast.retrieval.retriever import open_index
        from aslfast.trainer.demos.make import read_labelled
        from bench.real_run.ceilings import question_ceilings

        index, top_k = open_index(str(self.folder.index)), cold_config(self.settings, self.folder).tool.top_k
        n = self.settings.size.questions(split)
        found = question_ceilings(index, read_labelled(self.folder.split(split), n), top_k)
        write_text(self.folder.retrieval(split), json.dumps(found) + "\n")

    def _demonstrate(self, role: str) -> None:
        from bench.real_run.training import make_demonstrations

        config, n = cold_config(self.settings, self.folder), self.settings.size.demonstrations(role)
        make_demonstrations(config, role, self.folder.split("train"), n, self.folder.demos(role))

    def _practise(self) -> None:
        from bench.real_run.training import make_practice

        config, n = practice_config(self.settings, self.folder), self.settings.size.practised
        make_practice(config, self.folder.split("train"), n, self.folder.practice)

    def _read(self) -> None:
        from bench.real_run.training import fine_tune

        config = practice_config(self.settings, self.folder)
        fine_tune(config, "policy", self.folder.practice, None, self.folder.cold_start(READING))

    def _fine_tune(self, role: str) -> None:
        from bench.real_run.training import fine_tune

        start = self.folder.cold_start(READING if role == "policy" else "policy")
        config = cold_config(self.settings, self.folder)
        fine_tune(config, role, self.folder.demos(role), start, self.folder.cold_start(role))

    def _evaluate(self, name: str, split: str) -> None:
        from aslfast.trainer.demos.make import read_labelled
        from bench.real_run.played import evaluate

        adapters = adapters_of(self.folder, name, self.settings.cold_start)
        questions = read_labelled(self.folder.split(split), self.settings.size.questions(split))
        if split == "test":
            append_line(self.folder.test_log, {"evaluation": name, "questions": len(questions), "date": now()})
        out, title = self.folder.evaluation(name, split), f"{name} on {split}"
        config = cold_config(self.settings, self.folder)
        evaluate(config, adapters, questions, min(self.settings.size.judged_questions, len(questions)), out, title)

    def _rule(self) -> None:
        from bench.real_run.training import train_or_resume

        policy = cold_adapters(self.folder, self.settings.cold_start)["policy"]
        train_or_resume(rule_config(self.settings, self.folder, policy), self.folder.loop("rule"))

    def _asl(self) -> None:
        from bench.real_run.training import train_or_resume

        adapters = cold_adapters(self.folder, self.settings.cold_start)
        train_or_resume(asl_config(self.settings, self.folder, adapters), self.folder.loop("asl"))


def check_inputs(settings: RealSettings) -> None:
    """Raise UserError for files that are missing, before hours are spent."""
    for name in ("passages.parquet", "questions.parquet"):
        if not (Path(settings.data) / name).is_file():
            raise UserError(f"{settings.data}: no {name} there; name a folder that holds it with --data")
    if settings.cold_start:
        cold_adapters(RunFolder(Path()), settings.cold_start)
