"""NFT: its loss by hand, as the recipes set it, and a round in the lab."""

import math

import pytest
import torch

from aslfast.config import load_recipe
from aslfast.learner.losses.nft import nft_loss
from tests.support.systems.played import play_killed, play_small


@pytest.mark.parametrize("name", ["nft", "nft-tiny"])
def test_the_recipes_set_the_loss(name):
    config = load_recipe(name)
    assert (config.loss.kind, config.loss.nft_weight, config.loss.kl_coef) == ("nft", "linear", 0.0)
    assert config.policy.reward == "exact_match" and config.format_weight == 0


@pytest.mark.parametrize(
    ("ratio", "success", "loss"),
    [
        (1.2, True, -0.136741),  # -(3/4) ln 1.2
        (0.8, False, -0.048404),  # -(3/4) ln((1 - 0.25 x 0.8) / 0.75)
        (1.2, False, 0.0),  # (1 - 0.25 x 1.2) / 0.75 = 0.93 is raised to 1
    ],
)
def test_a_token_of_a_group_of_which_a_quarter_is_right(ratio, success, loss):
    log_ratio, rate = torch.tensor([math.log(ratio)]).double(), torch.tensor([0.25]).double()
    found = nft_loss(log_ratio, torch.tensor([success]), rate, load_recipe("nft").loss.nft_weight)
    assert float(found) == pytest.approx(loss, abs=1e-6)


def test_a_round_in_the_lab(tmp_path):
    settings = ["policy.steps=2", "policy.prompts_per_step=8", "policy.group_size=6"]
    whole = play_small("nft-tiny", tmp_path / "whole", settings)
    assert whole.moved == {"policy"} and [line["phase"] for line in whole.lines] == ["policy"] * 2
    groups = {}
    for row in whole.rows:
        groups.setdefault(row["task_id"], set()).add(row["reward"])
    mixed = sum(len(rewards) > 1 for rewards in groups.values())
    assert mixed > 0 and sum(line["loss_tokens"] for line in whole.lines) < sum(
        sum(row["loss_mask"]) for row in whole.rows
    )  # groups without both are left out
    assert play_killed("nft-tiny", tmp_path / "killed", settings).same_as(whole)
