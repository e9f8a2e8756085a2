"""Which tools a role has, and what is refused when a recipe that names `model:ROLE` is loaded."""

from pathlib import Path

import pytest

from aslfast.config import load_recipe
from aslfast.errors import UserError
from aslfast.prompts.tool_calls import SEARCH
from aslfast.tools.named import files_of, load_tools
from aslfast.trainer.datasets import FileEnvironment
from aslfast.trainer.preflight.dry_run import describe
from tests.support.own.recipes import recipe


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ('roles.policy.tools=["model:sercher"]', "roles.policy.tools is 'model:sercher'; name a role of the recipe"),
        ('tools=["model:x"]', "--set tools=.*: tools is 'model:x'; name a role of the recipe: policy, searcher"),
        ('tools=["model:"]', "tools is 'model:'; name a role"),
        ('roles.searcher.prompt=""', "roles.searcher.prompt is ''; it answers searches; set what it is asked"),
        ('roles.searcher.prompt="x {q}"', "roles.searcher.prompt is 'x {q}'.*with the gap {query}"),
        ('roles.searcher.tools=["search"]', "roles.searcher.tools is .*; it answers searches, and so has none"),
        ('roles.policy.tools=["search", "model:searcher"]', "model:searcher, search are each the tool search of"),
        ('roles.policy.tools=["model:searcher", "model:grm"]', "model:grm, model:searcher are each the tool search of"),
        ('tools=["search", "model:searcher"]', "tools is .*name one of them in roles.generator.tools"),
        ('tools=["serach"]', "MCP|mcp:URL or model:ROLE"),
    ],
)
def test_what_cannot_be_is_refused(setting, error):
    with pytest.raises(UserError, match=error):
        recipe(setting)


def test_a_role_that_names_no_tool_has_the_runs():
    config = recipe()
    assert config.searchers == ("searcher",) and config.tools_of("searcher") == ()
    assert config.tools_of("policy") == ("model:searcher",) and config.tools_of("generator") == (SEARCH,)
    assert recipe('roles.searcher.tools=["none"]', 'roles.grm.tools=["none"]').tools_of("grm") == ()
    assert load_recipe("tiny").searchers == ()


def test_the_plan_names_it():
    assert "tools of the role policy: model:searcher" in describe(recipe())


def test_it_is_no_code_to_load_and_no_file_to_hash():
    assert load_tools(["model:searcher"]) == [] and files_of(["model:searcher"]) == {}


def test_an_index_is_needed_where_a_role_searches_it(tmp_path: Path):
    (tmp_path / "topics.txt").write_text("rivers\n")
    (tmp_path / "q.jsonl").write_text('{"question": "Which river?", "golden_answers": ["Aker"]}\n')
    files = [f"data.topics={tmp_path / 'topics.txt'}", f"data.eval_questions={tmp_path / 'q.jsonl'}"]
    with pytest.raises(UserError, match=r"data\.index is not set"):
        FileEnvironment(recipe(*files))
    everyone = ('tools=["model:searcher"]', "roles.policy.tools=[]")
    assert FileEnvironment(recipe(*files, *everyone)).topics() == ["rivers"]
    demos = ('roles.generator.tools=["none"]', 'roles.grm.tools=["none"]', 'phases=["sft", "policy"]')
    with pytest.raises(UserError, match=r"data\.index is not set"):
        FileEnvironment(recipe(*files, *demos))
    assert FileEnvironment(recipe(*files, *demos, "sft.data=x.parquet")).topics() == ["rivers"]
