"""How the tests run: which files are slow, which share a worker, and where the fixtures that they share come from."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: two spinning threads starve on a busy machine

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# The files that start engines, servers or several processes, sample, train, compile, benchmark or try all of Unicode:
# `slow`. The longest come first: started last, one worker would run them alone at the end.
SLOW = (
    "models/test_fsdp.py", "project/test_extend.py", "sampler/test_sglang_faults.py", "checkpoint/test_resume.py",
    "lab/test_tiny_base.py", "bench/test_bench_rollout.py", "rollout/test_faults.py", "cli/test_commands.py",
    "kernels/test_triton_kernels.py", "distributed/test_multi_rank_run.py", "models/test_init_adapter.py",
    "cli/test_stopping.py", "cli/page/test_browser.py", "kernels/test_compile_report.py",
    "models/test_architectures.py",
    "trainer/preflight/test_doctor.py", "sampler/test_sglang_sampler.py", "sampler/test_sync_check.py",
    "sampler/test_shared_weights.py", "cli/test_bad_input.py", "cli/test_bad_models.py",
    "bench/real/test_run.py", "bench/gpu_run/test_on_gpu.py", "bench/test_bench_kernels.py",
    "bench/test_bench_learner.py", "bench/test_bench_soak.py",
    "bench/test_bench_round.py", "trainer/test_sft_phase.py", "checkpoint/test_sft_resume.py", "cli/test_adapters.py",
    "trainer/test_sft.py", "checkpoint/test_environment_resume.py", "project/test_environments_page.py",
    "checkpoint/test_resumed_config.py",
    "distributed/test_meeting.py", "trainer/test_environments.py", "models/test_from_gguf.py", "cli/test_model.py",
    "metrics/test_monitor.py", "index/test_sharing.py", "index/test_build.py", "project/shipping/test_packaging.py",
    "project/shipping/test_site.py", "project/shipping/test_h100_page.py", "project/shipping/test_notebooks.py",
    "kernels/test_integrations.py", "kernels/test_logprob_parallel.py", "index/test_damage.py",
    "trainer/preflight/test_memory_model.py", "project/test_light_imports.py", "distributed/test_process_group.py",
    "tools/test_mcp_server.py", "rounds/test_concurrency.py", "learner/test_gradients.py",
    "sampler/test_shared_prefixes.py", "rounds/test_round.py", "index/test_analyzer_unicode.py",
    "rounds/test_phases.py", "project/test_docs_code.py", "distributed/test_collectives.py",
    "sampler/test_local_sampler.py", "retrieval/test_client.py", "index/test_search.py", "index/test_update.py",
    "retrieval/test_server.py", "retrieval/test_server_limits.py", "trainer/test_sft_gradients.py",
    "learner/test_learner.py", "kernels/test_package.py", "trainer/test_forward_check.py", "cli/test_encodings.py",
    "distributed/test_watchdog.py", "project/test_phases_page.py", "cli/page/test_watch.py",
    "checkpoint/test_own_phase_resume.py",
    "systems/test_long_recipes.py", "systems/selfplay/test_soar.py", "systems/selfplay/test_mae.py",
    "systems/selfplay/test_pasodoble.py", "systems/selfplay/test_spiral.py", "systems/selfplay/test_comas.py",
    "systems/selfplay/test_eva.py", "systems/selfplay/test_spc.py", "systems/selfplay/test_seif.py",
    "systems/search/test_ssp.py", "systems/search/test_ssrl.py",
    "systems/search/test_reseek.py", "systems/search/test_re_searcher.py", "systems/search/test_convsearch_r1.py",
    "systems/search/test_fathom.py", "systems/search/test_spear.py", "systems/search/test_dr_zero.py",
    "systems/improve/test_b_star.py", "systems/improve/test_exit.py", "systems/improve/test_knowrl.py",
    "systems/improve/test_nft.py", "systems/improve/test_score.py", "systems/improve/test_spice.py",
    "bench/league/test_league.py",
)  # fmt: skip
# these share `engine_lab`
ENGINE = ("trainer/preflight/test_doctor.py", "sampler/test_sglang_sampler.py", "sampler/test_sync_check.py")


def pytest_configure(config):
    """Load the shared fixtures, and torch with them, where tests run: not in the process that hands them out."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.support.fixtures.shared")


def pytest_ignore_collect(collection_path, config):
    """Do not even import the slow files where none of them is wanted: that takes longer than a third of the others."""
    name = _name(f"tests/{collection_path.relative_to(TESTS).as_posix()}") if TESTS in collection_path.parents else ""
    return True if config.option.markexpr == "not slow" and name in SLOW else None


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
