"""Fixtures that several tests share: a small ChatML tokenizer, a tiny random model over it, indexes, one engine."""

import os
from contextlib import closing

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: two spinning threads starve on a busy machine

import hypothesis
import pytest
import torch

from aslfast.checkpoint.run_dir import RunDir
from aslfast.checkpoint.state import TrainState
from aslfast.config import load_recipe
from aslfast.index import BM25Index
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.prompts.chat_template import TAGS, Chat
from aslfast.rollout.multi_turn import Limits, Rollout
from aslfast.rollout.search_tool import SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.rounds.commit import Checkpointer
from aslfast.rounds.context import RoundContext, TrainingData
from aslfast.sampler.local.sampler import LocalSampler
from tests.support.scripted_sampler import ScriptedSampler
from tests.support.scripted_world import SMALL, WORLD
from tests.support.tiny_models import (
    CHATML,
    PASSAGES,
    byte_tokenizer,
    lab_sampler,
    lab_with_adapters,
    stir,
    tiny_model,
)

hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("busy")

# The files that start engines or several processes, train, compile or benchmark: `slow`. The longest come first:
# started last, one worker would run them alone at the end.
SLOW = (
    "models/test_fsdp.py", "project/test_extend.py", "sampler/test_sglang_faults.py", "checkpoint/test_resume.py",
    "lab/test_tiny_base.py", "bench/test_bench_rollout.py", "rollout/test_faults.py", "cli/test_commands.py",
    "kernels/test_triton_kernels.py", "distributed/test_multi_rank_run.py", "models/test_init_adapter.py",
    "cli/test_stopping.py", "kernels/test_compile_report.py", "models/test_architectures.py",
    "preflight/test_doctor.py", "sampler/test_sglang_sampler.py", "sampler/test_sync_check.py",
    "sampler/test_shared_weights.py", "cli/test_bad_input.py", "cli/test_bad_models.py",
    "bench/test_bench_kernels.py", "bench/test_bench_learner.py", "bench/test_bench_soak.py",
    "bench/test_bench_round.py", "trainer/test_sft_phase.py", "checkpoint/test_sft_resume.py", "cli/test_adapters.py",
    "trainer/test_sft.py", "checkpoint/test_environment_resume.py", "project/test_environments_page.py",
    "checkpoint/test_resumed_config.py",
    "distributed/test_meeting.py", "trainer/test_environments.py", "models/test_from_gguf.py", "cli/test_model.py",
    "metrics/test_monitor.py", "index/test_sharing.py", "index/test_build.py", "project/test_packaging.py",
    "kernels/test_integrations.py", "kernels/test_logprob_parallel.py", "index/test_damage.py",
)  # fmt: skip
# these share `engine_lab`
ENGINE = ("preflight/test_doctor.py", "sampler/test_sglang_sampler.py", "sampler/test_sync_check.py")


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items):
    """Mark the slow files' tests, and put them first."""
    for item in items:
        if _name(item.nodeid) in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: SLOW.index(_name(item.nodeid)) if _name(item.nodeid) in SLOW else len(SLOW))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a file's tests on one worker, since they share its fixtures, and all that share an engine on one too."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "engine" if _name(nodeid) in ENGINE else _name(nodeid)

    return Scheduling(config, log)


def _name(nodeid):
    return nodeid.partition("::")[0].removeprefix("tests/")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: more threads wait for each other longer than they work. A run in a test may have set them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    tags = [mark for tag in TAGS for mark in (f"<{tag}>", f"</{tag}>")]
    return byte_tokenizer(CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], tags, "<|im_end|>")


@pytest.fixture
def model(tokenizer):
    """The tiny model with the three roles' adapters, all different from the base."""
    peft_model = lora.add_adapters(tiny_model(tokenizer), rank=4, alpha=8.0, seed=0)
    stir(peft_model)
    return peft_model


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    return BM25Index.build(PASSAGES, tmp_path_factory.mktemp("index") / "idx", threads=1)


@pytest.fixture(scope="session")
def lab_index(tmp_path_factory):
    """The 550 passages of a world of the lab."""
    from aslfast.lab.world import World

    passages = World.make(0, "train").passages()
    return BM25Index.build(passages, tmp_path_factory.mktemp("lab") / "idx", threads=1)


@pytest.fixture(scope="session")
def lab_tokenizer():
    from aslfast.lab.tokenizer import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def engine_lab():
    """(SGLang sampler, model, tokenizer) over the lab's base: one engine for all tests that leave it alive."""
    peft_model, own_tokenizer = lab_with_adapters()
    with closing(lab_sampler(peft_model, own_tokenizer)) as sampler:
        sampler.start()
        yield sampler, peft_model, own_tokenizer


@pytest.fixture(scope="session")
def world_index(tmp_path_factory):
    return BM25Index.build(WORLD.passages(), tmp_path_factory.mktemp("world") / "idx", threads=1)


@pytest.fixture
def make_context(tokenizer, world_index, tmp_path):
    """A context in a new run folder; the sampler is the local one where no script is given."""

    def make(name="run", script=None, overrides=(), seed=0):
        config = load_recipe("tiny", [*SMALL, *overrides], seed=seed)
        model = lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed, config.adapters)
        stir(model)
        if script:
            sampler = ScriptedSampler(tokenizer, script)
        else:
            sampler = LocalSampler(model, tokenizer, max_running_requests=16, max_context=512)
        limits = Limits(3, 400 if script else 24, 2000 if script else 512)
        rollout = Rollout(sampler, ToolExecutor(SearchTool(world_index, 1)), Chat(tokenizer), limits, 0.7)
        learner = Learner(model, config.learner, config.loss, 0.7, config.adapters)
        state = TrainState(round=1)
        checkpointer = Checkpointer(RunDir.create(tmp_path / name, config), state, learner)
        return RoundContext(config, state, learner, rollout, TrainingData(sorted(WORLD.facts)), checkpointer)

    return make
