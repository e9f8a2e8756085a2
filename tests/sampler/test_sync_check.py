"""The weight-sync check: what is an error, and on a real engine each way in which an adapter can be the wrong one."""

import math

import pytest
import torch

from aslfast.config.roles import ROLES
from aslfast.errors import UserError
from aslfast.models.lora import parameters_of
from aslfast.prompts.chat_template import Chat
from aslfast.sampler.sglang.adapters import adapter_state
from aslfast.sampler.sglang.engine_client import EngineDied
from aslfast.sampler.sglang.sync_check import (
    TOLERANCE,
    RoleLogprobs,
    WeightSyncCheck,
    check_prompts,
    check_role,
    score,
)

BASE = (-1.0, -2.0, -3.0)
NEW = (-1.0, -2.5, -3.0)
NEWER = (-1.0, -2.5, -3.2)
NOT_LOADED = "the adapter is not loaded: the engine answers as the base does, the trainer differs"


def answer(engine, trainer, noise=3e-6):
    return RoleLogprobs([x + noise for x in engine], BASE, trainer, BASE)


def test_agreement_gives_the_largest_difference():
    assert check_role(
        "policy", 3, RoleLogprobs((-1.0, -2.00003), BASE[:2], BASE[:2], BASE[:2]), None, 1e-4
    ) == pytest.approx(3e-5)
    assert check_role("policy", 1, answer(NEW, NEW), answer(BASE, BASE), 1e-4) == pytest.approx(3e-6)
    assert check_role("policy", 0, answer(BASE, BASE), None, 1e-4) == pytest.approx(3e-6)  # a fresh adapter is the base
    tiny_step = tuple(x + 2e-5 for x in NEW)  # below what can be told
    assert check_role("policy", 2, answer(NEW, tiny_step), answer(NEW, NEW), 1e-4) < 1e-4


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (answer(BASE, NEW), None, NOT_LOADED),
        (answer(NEW, NEWER), answer(NEW, NEW), "the adapter is stale: the engine answers as before, the trainer has"),
        (answer(NEWER, NEW), answer(BASE, BASE), "engine and trainer differ in a log-prob by 0.2, at most 0.0001"),
        (answer((math.nan,) * 3, NEW), None, "engine and trainer differ in a log-prob by nan"),
    ],
)  # fmt: skip
def test_what_is_an_error(now, before, said):
    with pytest.raises(UserError) as stopped:
        check_role("grm", 7, now, before, 1e-4)
    text = str(stopped.value)
    assert text.startswith(f"grm, version 7: {said}") and "sampler.share_base=false" in text


def test_half_types_need_more():
    """What float16 and bfloat16 round away is no error; in float32 the same difference is one."""
    assert TOLERANCE[torch.bfloat16] == 8 * TOLERANCE[torch.float16] == 1.0
    rounded = tuple(float(torch.tensor(x).bfloat16()) for x in (-17.3, -2.07, -9.9))
    now = RoleLogprobs(rounded, BASE, (-17.3, -2.07, -9.9), BASE)
    assert check_role("policy", 1, now, None, TOLERANCE[torch.bfloat16]) > 0.01
    with pytest.raises(UserError):
        check_role("policy", 1, now, None, TOLERANCE[torch.float32])


def test_the_next_engine_is_asked_where_one_dies():
    class Lost:
        lives = 2

        def score(self, token_ids, adapter):
            self.lives -= 1
            if self.lives:
                raise EngineDied("its process has ended")
            return [-1.0]

        def version(self, role):
            return 0

    assert score(Lost(), (1, 2), None) == [-1.0]


# --- on a real engine --------------------------------------------------------------------------------------------


@pytest.fixture
def synced(engine_lab):
    """(sampler, model, a check that has passed once); adapters are put back as they were."""
    sampler, model, tokenizer = engine_lab
    before = {role: [weight.detach().clone() for weight in parameters_of(model, role)] for role in ROLES}
    sampler.flush()
    sync_check = WeightSyncCheck(sampler, model, check_prompts(Chat(tokenizer), "compact", ROLES))
    found = sync_check.check()
    assert 0 < found["sync_difference"] < 1e-4 and found["sync_check_ms"] > 0
    yield sampler, model, sync_check
    for role in ROLES:
        restore(model, role, before[role])
    sampler.flush()


def restore(model, role, weights):
    with torch.no_grad():
        for weight, old in zip(parameters_of(model, role), weights, strict=True):
            weight.copy_(old)


def move(model, role, factor):
    """As an optimizer step does: in place."""
    with torch.no_grad():
        for weight in parameters_of(model, role):
            weight *= factor


def test_a_push_passes(synced):
    sampler, model, sync_check = synced
    move(model, "policy", 1.1)
    sampler.flush()
    assert sync_check.check()["sync_difference"] < 1e-4
    assert sync_check.differences().keys() == set(ROLES)


def test_a_stale_adapter_is_caught(synced):
    _, model, sync_check = synced
    move(model, "policy", 1.1)  # and no push
    with pytest.raises(UserError, match=r"^policy, version \d+: the adapter is stale"):
        sync_check.check()


def test_a_slow_drift_of_a_stale_adapter_is_caught(synced):
    """Steps too small to tell apart add up."""
    _, model, sync_check = synced
    with pytest.raises(UserError, match=r"the adapter is stale|differ in a log-prob"):
        for _ in range(60):
            move(model, "grm", 1.00003)
            sync_check.check()


def test_an_adapter_that_is_not_there_is_caught(synced):
    """The engine has one that changes nothing: what an engine that ignores adapters answers."""
    sampler, model, sync_check = synced
    weights = [weight.detach().clone() for weight in parameters_of(model, "generator")]
    move(model, "generator", 0)
    sampler.push_adapter("generator", *adapter_state(model, "generator"))
    restore(model, "generator", weights)
    with pytest.raises(UserError, match=r"^generator, version \d+: the adapter is not loaded"):
        sync_check.check()


def test_swapped_roles_are_caught(synced):
    sampler, model, sync_check = synced
    sampler.push_adapter("policy", *adapter_state(model, "grm"))  # names in it hold no role
    with pytest.raises(UserError, match=r"^policy, version \d+: engine and trainer differ in a log-prob"):
        sync_check.check()


def test_the_check_leaves_the_active_adapter(synced):
    _, model, sync_check = synced
    model.set_adapter("grm")
    sync_check.check()
    assert model.active_adapter == "grm"
