"""What arms.toml says: the arms of each claim, and the differences that decide it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aslfast.config import RunConfig, load_recipe, toml
from aslfast.errors import UserError

FILE = Path(__file__).with_name("arms.toml")
VALUES = ("accuracy", "reward")
FORMER_VALUES = {"truth": "accuracy"}  # in older result files


@dataclass(frozen=True, slots=True)
class Arm:
    """A recipe with settings laid over it; `key` names its runs' folders, `name` is for people."""

    key: str
    name: str
    recipe: str
    overrides: tuple[str, ...]

    def config(self, seed: int) -> RunConfig:
        """Return the configuration. Raise UserError for a recipe or a key that does not exist."""
        return load_recipe(self.recipe, self.overrides, seed)

    def folder(self, runs: Path, seed: int) -> Path:
        """Return the folder of the arm's run with a seed."""
        return runs / f"{self.key}-s{seed}"


@dataclass(frozen=True, slots=True)
class Term:
    """+1 or -1 times a value of an arm's run after a round."""

    sign: int
    value: str
    arm: str
    round: int

    @classmethod
    def read(cls, text: str) -> Term:
        """Return the term that a text such as "+ accuracy asl 4" stands for. Raise UserError."""
        words = [FORMER_VALUES.get(word, word) for word in text.split()]
        if len(words) != 4 or words[0] not in ("+", "-") or words[1] not in VALUES or not words[3].isdigit():
            wanted = f"'+ VALUE ARM ROUND' or '- VALUE ARM ROUND', VALUE one of {', '.join(VALUES)}"
            raise UserError(f"{FILE}: the term {text!r} cannot be read; write it as {wanted}")
        return cls(1 if words[0] == "+" else -1, words[1], words[2], int(words[3]))


@dataclass(frozen=True, slots=True)
class Check:
    """A part of a claim: a sum that is above 0 if the part is supported."""

    says: str
    terms: tuple[Term, ...]

    @classmethod
    def read(cls, check: Mapping[str, Any]) -> Check:
        """Return the check that a table of the TOML or of a result file stands for. Raise UserError."""
        return cls(check["says"], tuple(map(Term.read, check["terms"])))

    def arms(self) -> tuple[str, str] | None:
        """Return (first, second) if the check only asks whether one arm's accuracy ends above another's, else None."""
        first, *others = self.terms
        second = others[0] if len(others) == 1 else first
        plain = (first.sign, second.sign, first.value, second.value) == (1, -1, "accuracy", "accuracy")
        return (first.arm, second.arm) if plain and first.arm != second.arm else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the paper, and how it is tested."""

    key: str
    title: str
    sentence: str
    arms: tuple[Arm, ...]
    checks: tuple[Mapping[str, Any], ...]
    show_reward: bool  # in the plot, along with the accuracy


def read_claims(file: Path = FILE) -> dict[str, Claim]:
    """Return all claims by letter. Raise UserError for a claim, or one of its checks, that names an unknown arm."""
    tree = toml.parse(file.read_text(encoding="utf-8"))
    arms = {
        key: Arm(key, arm["name"], arm["recipe"], (*tree["set"], *arm.get("set", ())))
        for key, arm in tree["arms"].items()
    }
    return {key: _claim(key, claim, arms) for key, claim in tree["claims"].items()}


def _claim(key: str, claim: Mapping[str, Any], arms: Mapping[str, Arm]) -> Claim:
    named = {term.arm for check in claim["checks"] for term in Check.read(check).terms}
    for arm in (*claim["arms"], *sorted(named)):
        if arm not in arms or arm not in claim["arms"]:
            raise UserError(f"{FILE}: claim {key} names the arm {arm!r}; define it in [arms], list it in the claim")
    own = tuple(arms[arm] for arm in claim["arms"])
    shown = claim.get("show_reward", False)
    return Claim(key, claim["title"], claim["sentence"], own, tuple(claim["checks"]), shown)
