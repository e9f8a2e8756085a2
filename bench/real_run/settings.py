"""What a real run is asked for, its sizes, and the configurations of its parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aslfast.config import RunConfig, load_recipe
from aslfast.config.roles import ROLES
from aslfast.config.schema import DTYPES
from aslfast.errors import UserError
from aslfast.files.atomic import write_text
from bench.real_run.folder import RunFolder

COLD, RULE, ASL = "smollm2-cold-start", "search-r1-smollm2", "asl-smollm2"  # recipes


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a run is."""

    practised: int  # questions of the reading practice
    demonstrated: tuple[int, int, int]  # questions to make demonstrations from: of the generator, the judge, the policy
    epochs: int  # passes over practice and demonstrations
    dev_questions: int  # of each evaluation on dev
    test_questions: int  # of each evaluation on test
    judged_questions: int  # of each evaluation of the judge: a right and a wrong answer to each, and the policy's
    rule_rounds: int
    rule_steps: int  # a round
    asl_rounds: int
    asl_steps: tuple[int, int, int]  # a round: of the generator, the judge, the policy
    loop_questions: int  # of dev, at the end of every round of the loops
    least_dev: int = 400  # questions of the split
    least_test: int = 1000

    @property
    def least(self) -> dict[str, int]:
        """Return the least number of questions of test and dev; the rest is train."""
        return {"test": self.least_test, "dev": self.least_dev}

    def demonstrations(self, role: str) -> int:
        """Return how many questions a role's demonstrations are made from."""
        return self.demonstrated[ROLES.index(role)]

    def questions(self, split: str) -> int:
        """Return how many questions an evaluation on dev or test has."""
        return self.test_questions if split == "test" else self.dev_questions


SIZES = {
    "short": Size(1200, (96, 96, 320), 1, 48, 64, 16, 1, 3, 1, (1, 1, 1), 16),
    "full": Size(6000, (2400, 300, 2000), 1, 64, 500, 150, 2, 25, 2, (8, 8, 12), 48),
}


@dataclass(frozen=True, slots=True)
class RealSettings:
    """All that decides a run's figures. A folder keeps those that it was started with."""

    size: Size
    data: str  # folder with passages.parquet and questions.parquet
    model: str = "smollm2-135m"  # known name or GGUF file, which is converted; or a model folder
    dtype: str = "float32"
    threads: int = 0
    seed: int = 0
    cold_start: str = ""  # folder with adapters to start from: they take the place of the fine-tunings
    overrides: Sequence[str] = field(default=())  # key=value of all three recipes

    def keep(self, folder: RunFolder) -> None:
        """Write the settings to a new folder; raise UserError if the folder was started with others."""
        own = json.loads(json.dumps(asdict(self)))
        if folder.settings.exists():
            kept = json.loads(folder.settings.read_text(encoding="utf-8"))
            if other := next((key for key in own if kept.get(key) != own[key]), None):
                what = f"started with {other} {kept.get(other)!r}, not {own[other]!r}"
                raise UserError(f"{folder.path}: {what}; repeat the first command, or choose another --out")
        else:
            write_text(folder.settings, json.dumps(own, indent=2) + "\n")

    def model_folder(self, folder: RunFolder) -> str:
        """Return the model's folder: the one that was given, or where it is converted to."""
        return self.model if self.model == "lab" or Path(self.model).is_dir() else str(folder.model)


def best_dtype() -> str:
    """Return bfloat16 where it is faster than float32: on a CPU that multiplies it, or a GPU; needs no torch."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        flags = ""
    fast = ("amx_bf16", "avx512_bf16")  # products of bfloat16 in hardware
    return "bfloat16" if any(flag in flags for flag in fast) or Path("/dev/nvidia0").exists() else "float32"


def check_dtype(dtype: str) -> str:
    """Return the dtype that --dtype names; raise UserError."""
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"--dtype is {dtype!r}; use auto or one of {', '.join(DTYPES)}")
    return best_dtype() if dtype == "auto" else dtype


def cold_config(settings: RealSettings, folder: RunFolder) -> RunConfig:
    """Return the configuration of demonstrations, fine-tunings and evaluations. Raise UserError."""
    return _config(COLD, settings, folder, [f"sft.epochs={settings.size.epochs}"])


def practice_config(settings: RealSettings, folder: RunFolder) -> RunConfig:
    """Return the configuration of the reading practice: a row is a passage with its questions. Raise UserError."""
    own = [f"sft.epochs={settings.size.epochs}", "sft.learning_rate=1e-3", "sft.batch_size=5"]
    return _config(COLD, settings, folder, own)


def rule_config(settings: RealSettings, folder: RunFolder, policy: Path) -> RunConfig:
    """Return the configuration of the loop with rule reward, from a policy's adapter. Raise UserError."""
    size = settings.size
    own = [f"rounds={size.rule_rounds}", f"policy.steps={size.rule_steps}", f"data.labelled={folder.split('train')}"]
    return _config(RULE, settings, folder, [*own, f"roles.policy.init_adapter={policy}"])


def asl_config(settings: RealSettings, folder: RunFolder, adapters: dict[str, Path]) -> RunConfig:
    """Return the configuration of the ASL rounds, from the adapters of the three roles. Raise UserError."""
    steps = [f"{role}.steps={n}" for role, n in zip(ROLES, settings.size.asl_steps, strict=True)]
    start = [f"roles.{role}.init_adapter={adapters[role]}" for role in ROLES]
    return _config(ASL, settings, folder, [f"rounds={settings.size.asl_rounds}", *steps, *start])


def _config(recipe: str, settings: RealSettings, folder: RunFolder, own: Sequence[str]) -> RunConfig:
    shared = [
        f"model.path={settings.model_folder(folder)}", f"model.dtype={settings.dtype}", f"threads={settings.threads}",
        f"data.index={folder.index}", f"data.topics={folder.topics}", f"data.eval_questions={folder.split('dev')}",
        f"data.eval_count={settings.size.loop_questions}",
    ]  # fmt: skip
    return load_recipe(recipe, [*shared, *own, *settings.overrides], seed=settings.seed)
