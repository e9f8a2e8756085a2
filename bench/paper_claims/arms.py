"""What arms.toml, for the lab's second world arms2.toml, says: the arms of each claim, and what decides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aslfast.config import RunConfig, load_recipe, toml
from aslfast.errors import UserError
from bench.paper_claims.moments import Moment

FILES = {1: Path(__file__).with_name("arms.toml"), 2: Path(__file__).with_name("arms2.toml")}  # by the lab's world
NAMES = {1: "claims", 2: "claims2"}  # of their page, picture and result files
VALUES = {"accuracy": "accuracy", "reward": "reward", "judge": "grm", "gap": "gap"}  # in a term -> in a result file
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
    """+1 or -1 times a value of an arm's run at a moment."""

    sign: int
    value: str
    arm: str
    at: Moment

    @classmethod
    def read(cls, text: str) -> Term:
        """Return the term that a text such as "+ accuracy asl 4" or "- gap asl 50%" stands for. Raise UserError."""
        try:
            sign, value, arm, at = (FORMER_VALUES.get(word, word) for word in text.split())
            if value not in VALUES:
                raise ValueError(value)
            return cls({"+": 1, "-": -1}[sign], value, arm, Moment.read(at))
        except (KeyError, ValueError) as error:
            wanted = f"'+ VALUE ARM AT', or with -; VALUE one of {', '.join(VALUES)}; AT a round or a % of the budget"
            raise UserError(f"the term {text!r} cannot be read; write it as {wanted}") from error


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
    seeds: int  # how many decide it, said before any is run
    budget: int | None = None  # sampled tokens at which every run is read; None: all of its rounds


def read_claims(file: Path = FILES[1]) -> dict[str, Claim]:
    """Return all claims by letter. Raise UserError for a claim, or one of its checks, that names an unknown arm."""
    tree = toml.parse(file.read_text(encoding="utf-8"))
    arms = {
        key: Arm(key, arm["name"], arm["recipe"], (*tree["set"], *arm.get("set", ())))
        for key, arm in tree["arms"].items()
    }
    try:
        return {key: _claim(key, claim, arms, tree.get("budget")) for key, claim in tree["claims"].items()}
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _claim(key: str, claim: Mapping[str, Any], arms: Mapping[str, Arm], budget: int | None) -> Claim:
    named = {term.arm for check in claim["checks"] for term in Check.read(check).terms}
    for arm in (*claim["arms"], *sorted(named)):
        if arm not in arms or arm not in claim["arms"]:
            raise UserError(f"claim {key} names the arm {arm!r}; define it in [arms], list it in the claim")
    own = tuple(arms[arm] for arm in claim["arms"])
    shown, seeds = claim.get("show_reward", False), claim.get("seeds", 3)
    return Claim(key, claim["title"], claim["sentence"], own, tuple(claim["checks"]), shown, seeds, budget)
