"""What arms.toml says: arms that are configurations, checks that can be read."""

import pytest

from aslfast.config import to_toml
from aslfast.errors import UserError
from bench.paper_claims.arms import Check, Term, read_claims
from bench.paper_claims.moments import Moment

CLAIMS = read_claims()
ARMS = {arm.key: arm for claim in CLAIMS.values() for arm in claim.arms}


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_arm_is_a_configuration_on_one_thread(arm):
    config = arm.config(2)
    assert (config.threads, config.seed, config.data.lab) == (1, 2, True)
    wanted = max(t.at.number for claim in CLAIMS.values() for check in claim.checks for t in Check.read(check).terms)
    assert config.rounds >= wanted


def test_arms_differ_only_in_what_the_claim_is_about():
    asl, frozen = ARMS["asl"].config(0), ARMS["frozen"].config(0)
    assert (asl.grm.steps, frozen.grm.steps) == (5, 0)
    assert to_toml(asl).replace("steps = 5", "steps = 0") == to_toml(frozen)


@pytest.mark.parametrize(
    "text",
    ["accuracy asl 4", "+ accuracy asl last", "* accuracy asl 4", "+- accuracy asl 4", "+ gain asl 4", "+ gap asl 4.5"],
)
def test_term_that_cannot_be_read(text):
    with pytest.raises(UserError, match="cannot be read"):
        Term.read(text)


def test_claim_with_an_arm_that_is_not_its_own(tmp_path):
    file = tmp_path / "claims.toml"
    file.write_text(
        'set = []\n[arms.one]\nname = "one"\nrecipe = "tiny"\n[arms.two]\nname = "two"\nrecipe = "tiny"\n'
        '[claims.x]\ntitle = "x"\nsentence = "x"\narms = ["one"]\n'
        'checks = [{ says = "x", terms = ["+ accuracy one 1", "- accuracy two 1"] }]\n'
    )
    with pytest.raises(UserError, match="claim x names the arm 'two'"):
        read_claims(file)


def test_an_older_name_of_a_value_is_read():
    assert Term.read("+ truth asl 4") == Term.read("+ accuracy asl 4") == Term(1, "accuracy", "asl", Moment(4))


def test_a_share_of_the_budget_lies_on_a_line_between_rounds():
    rounds = [{"sampled_tokens": n, "accuracy": a} for n, a in ((0, 0.2), (100, 0.4), (300, 0.8))]  # at 0, 100, 400

    def at(text, budget=200, key="accuracy"):
        return Moment.read(text).value(rounds, lambda entry: entry.get(key), budget)

    assert [at("0%"), at("50%"), at("100%"), at("2")] == pytest.approx([0.2, 0.4, 0.4 + 0.4 / 3, 0.8])
    assert at("50%", key="gap") is None
    with pytest.raises(UserError, match="50% of the budget: the result has none"):
        at("50%", budget=None)
