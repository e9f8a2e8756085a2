"""Rewards, labels, filters and prompts of one's own: named by import path, tried before the run, guarded in it."""

from __future__ import annotations

import re

import pytest

from aslfast import plugins, rewards
from aslfast.config import load_recipe
from aslfast.config.own_parts import check_own_parts
from aslfast.errors import UserError
from aslfast.prompts.templates import check_prompt_set, prompt_text
from aslfast.rewards import AnswerEvidence
from aslfast.trainer.provenance import places

OWN = "tests.support.own.rewards"


def test_a_reward_of_ones_own():
    config = load_recipe("tiny", [f"policy.reward={OWN}:brevity"])
    check_own_parts(config)
    assert rewards.policy_rule(config.policy.reward)(AnswerEvidence("abc")) == 0.25


@pytest.mark.parametrize(
    "setting",
    [
        f"generator.reward={OWN}:parts",
        f"generator.accept={OWN}:short_questions",
        f"generator.reference={OWN}:shouted",
        f"grm.label={OWN}:first_is_right",
        f"grm.reward={OWN}:half",
    ],
)
def test_every_name_may_be_an_import_path(setting):
    check_own_parts(load_recipe("tiny", [setting]))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module:f", "no module 'no_such_module'; run in the folder that holds it, or install it"),
        (f"{OWN}:no_such_name", "has no 'no_such_name'"),
        (f"{OWN}:number", "is no plain function; it takes one aslfast.rewards.AnswerEvidence and returns"),
        (f"{OWN}:coroutine", "is no plain function"),
        (f"{OWN}:no_arguments", "too many positional arguments; it takes one aslfast.rewards.AnswerEvidence"),
        (f"{OWN}:not_a_number", "returned nan; it takes"),
        (f"{OWN}:text", "returned 'good'; it takes"),
        (f"{OWN}:raises", r"raised KeyError: 'no such\nkey' (rewards.py:"),
        (f"{OWN}:exits", "raised SystemExit: bye (rewards.py:"),
        (f"{OWN}:forgets_that_none_may_answer", "when it was tried with AnswerEvidence(answer=None, "),
        ("my_rewards.py:brevity", "no module 'my_rewards'; write my_rewards:brevity"),
    ],
)
def test_a_wrong_reward_is_one_line_before_the_run(path, said):
    with pytest.raises(UserError, match=f"^policy.reward: .*{re.escape(said)}") as error:
        rewards.policy_rule(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(0)", "importing 'own_module' raised SystemExit: 0 (own_module.py:1)"),
        ("def f(:", "importing 'own_module' raised SyntaxError: invalid syntax (own_module.py, line 1)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(code, said, tmp_path, monkeypatch):
    (tmp_path / "own_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        plugins.load_object.__wrapped__("own_module:f", "policy.reward")
    assert str(error.value) == f"policy.reward: {said}"


def test_an_error_in_the_run_names_the_function():
    rule = rewards.policy_rule(f"{OWN}:raises_later")
    assert rule(AnswerEvidence("Oslo")) == 1.0
    with pytest.raises(UserError, match=rf"policy\.reward: {OWN}:raises_later raised RuntimeError: only Oslo"):
        rule(AnswerEvidence("Rome"))


def test_a_reward_that_hangs_is_interrupted(monkeypatch):
    monkeypatch.setattr(plugins, "LIMIT_S", 0.05)
    with pytest.raises(UserError, match=r"hangs raised TimeoutError: no result within 0\.05 s"):
        rewards.policy_rule(f"{OWN}:hangs")


def test_a_name_that_is_neither_ours_nor_an_import_path():
    said = r"policy\.reward is 'exactmatch'; did you mean 'exact_match'\?.* or module:name"
    with pytest.raises(UserError, match=said):
        load_recipe("tiny", ["policy.reward=exactmatch"])


def test_prompts_of_ones_own(tmp_path):
    (tmp_path / "policy.txt").write_text("\ufeffBitte: {question}\n", encoding="utf-8")
    check_prompt_set(str(tmp_path))
    assert prompt_text(str(tmp_path), "policy") == "Bitte: {question}"
    assert prompt_text(str(tmp_path), "grm") == prompt_text("full", "grm")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (None, b"", "has no .txt file; it may hold generator"),
        ("polisy.txt", b"{question}", "polisy.txt is of no use; a set holds"),
        ("grm.txt", b"{question}", "grm.txt lacks {answer}"),
        ("policy.txt", b"\xff{question}", "policy.txt is not readable as UTF-8"),
        ("policy.txt", b"{question}" * 20_000, "policy.txt has over 100,000 bytes"),
    ],
)
def test_wrong_prompts_are_one_line(name, content, said, tmp_path):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(said)):
        check_prompt_set(str(tmp_path))


def test_a_folder_of_prompts_that_is_missing():
    with pytest.raises(UserError, match=r"model\.prompts: no folder 'fulll'; name one, or use one of compact"):
        check_prompt_set("fulll")


def test_ones_own_code_and_prompts_are_inputs_of_the_run(tmp_path):
    (tmp_path / "policy.txt").write_text("{question}")
    config = load_recipe("tiny", [f"policy.reward={OWN}:brevity", f"model.prompts={tmp_path}"])
    read = places(config)
    assert read["policy.reward"].endswith("rewards.py") and read["model.prompts"] == str(tmp_path)
