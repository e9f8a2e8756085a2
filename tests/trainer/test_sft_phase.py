"""The phase "sft" of a run: it trains as `aslfast sft` does; what cannot be is one line."""

import json
from dataclasses import replace

import pytest

from aslfast.config import load_recipe
from aslfast.errors import UserError
from aslfast.trainer.sft.run import SftObserver, sft
from aslfast.trainer.sft.settings import SftConfig
from aslfast.trainer.train import train
from tests.support.killed_runs import lab_config

TOPICS = ("Rala Telbom", "Batu Nirkek", "Kano Berbek", "Nepa Dunkom", "Vome Pentum")


@pytest.fixture
def chat(tmp_path):
    file = tmp_path / "chat.jsonl"
    said = [("user", "what is the job of {name}?"), ("assistant", "<answer>baker</answer>")]
    messages = [[{"role": role, "content": text.format(name=name)} for role, text in said] for name in TOPICS]
    file.write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages))
    return file


def test_the_phase_leaves_the_adapter_of_the_command(chat, tmp_path):
    start = SftConfig("lab", str(chat), rank=16, alpha=32.0, dev_fraction=0.0, epochs=1, threads=1, lr=1e-3)
    sft(start, tmp_path / "start", SftObserver())
    again = replace(start, init_adapter=str(tmp_path / "start"), epochs=3, batch_size=2)
    sft(again, tmp_path / "command", SftObserver())
    more = [
        'phases=["sft", "policy"]', f"sft.data={chat}", "sft.epochs=3", "sft.batch_size=2", "sft.learning_rate=0.001",
        f"roles.policy.init_adapter={tmp_path / 'start'}", "policy.steps=0",
    ]  # fmt: skip
    train(lab_config(tmp_path, more), tmp_path / "run")
    (_, last) = sorted((tmp_path / "run" / "adapters" / "policy").iterdir())
    assert last.name == "v0009"
    name = "adapter_model.safetensors"
    assert (last / name).read_bytes() == (tmp_path / "command" / name).read_bytes()
    assert (last / name).read_bytes() != (tmp_path / "start" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (['phases=["policy", "sft"]'], '"sft" comes once, before all others'),
        (['phases=["sft", "sft"]'], '"sft" comes once, before all others'),
        (['phases=["sft", "policy"]', 'tools=["search", "mcp:x"]'], "sft.data is not set, and demonstrations can be"),
        (['phases=["sft", "policy"]', "sft.role=grm", "grm.folds=2"], "sft.role is grm, and grm.folds makes two"),
        (['phases=["sft", "policy"]', "sft.role=judge"], "sft.role is 'judge'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_that_asks_for_it(settings, said):
    with pytest.raises(UserError) as error:
        load_recipe("tiny", settings)
    assert said in str(error.value) and "--set" in str(error.value)


@pytest.mark.parametrize(
    ("sft_data", "said"), [("", "data.labelled is not set, and the phase sft"), ("none.jsonl", "none.jsonl: no such")]
)
def test_missing_data_is_one_line_and_nothing_is_left(sft_data, said, tmp_path):
    config = lab_config(tmp_path, ['phases=["sft", "policy"]', f"sft.data={sft_data}"])
    with pytest.raises(UserError, match=said):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
