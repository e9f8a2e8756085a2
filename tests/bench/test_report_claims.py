"""The report of the claims says what the numbers say; the page is what it makes of the committed results."""

from pathlib import Path

import pytest

from aslfast.errors import UserError
from bench.paper_claims import report_claims
from bench.paper_claims.arms import FILES, NAMES, read_claims
from bench.paper_claims.plots import draw

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = read_claims()


def small_result(gains=(0.10, 0.12, 0.11)):
    """Two arms of one round: the first ends `gains` above the second, seed by seed."""

    def rounds(final):
        entry = {"grm": 0.7, "solvable": 0.6, "reward": 0.5, "pool_questions": 40, "sampled_tokens": 1e6}
        made = []
        for number, value in enumerate((0.4, final)):
            by_hops = {"1": value + 0.1, "2": value, "3": value - 0.1}
            made.append(
                {**entry, "seconds": 60.0, "round": number, "accuracy": value, "by_hops": by_hops, "n_eval": 300}
            )
        return {"made": [{"commit": "c" * 40}], "software": {"torch": "2.13.0"}, "rounds": made}

    def arm(name, finals):
        runs = {str(seed): rounds(final) for seed, final in enumerate(finals)}
        return {"name": name, "recipe": "tiny", "set": [], "runs": runs}

    checks = [{"says": "one ends higher", "terms": ["+ accuracy one 1", "- accuracy two 1"]}]
    arms = {"one": arm("first", [0.5 + gain for gain in gains]), "two": arm("second", [0.5] * 3)}
    stamp = {"commit": "d" * 40, "dirty": False, "device": "a CPU", "cores": 2, "date": "2026-11-21T00:00"}
    claim = {"claim": "a", "title": "small", "sentence": "It helps.", "seeds": [0, 1, 2], "show_reward": True}
    return {**stamp, **claim, "checks": checks, "arms": arms}


def test_report_says_what_the_numbers_say():
    text = "\n".join(report_claims.section(small_result()))
    assert "| one ends higher | +10.0, +12.0, +11.0 | +11.0 (+8.5 to +13.5) | 100% | yes |" in text
    assert "| first | 40 61 | 61.0% (" in text and "| 60.0%, 62.0%, 61.0% | 71/61/51 | 70.0% |" in text
    assert "Runs trained at commit cccccccc, torch 2.13.0; collected at dddddddd on a CPU" in text
    worse = "\n".join(report_claims.section(small_result((-0.10, -0.12, -0.11))))
    assert "| 0% | no |" in worse and "| **all checks** | | | | **no** |" in worse
    unsure = "\n".join(report_claims.section(small_result((-0.10, 0.12, 0.11))))
    assert "| **all checks** | | | | **inconclusive** |" in unsure


def test_summary_shows_a_row_per_claim_measured_or_not():
    _, _, first, second, *_ = report_claims.summary_table({"a": small_result()}, CLAIMS)
    assert "one ends higher: +11.0 (+8.5 to +13.5) | **yes** |" in first
    assert second.startswith("| (b) ") and second.endswith("| not measured yet |  |  |")


@pytest.mark.parametrize("world", FILES)
def test_page_shows_what_was_measured_and_no_more(world):
    claims, name = read_claims(FILES[world]), NAMES[world]
    results = report_claims.read_results(sorted((ROOT / "bench" / "results").glob(f"{name}-*.json")), claims)
    text = (ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert report_claims.between(text, report_claims.docs_block(results, claims, name)) == text, (
        f"{name}.md: run python -m bench.paper_claims.report_claims --world {world} bench/results/{name}-*.json"
    )


def test_plot_has_a_panel_per_claim(tmp_path):
    """Wider with each claim up to three, then higher; arms without any spread are drawn too."""
    sizes = []
    for count in (1, 3, 4):
        draw({str(i): small_result((0.1, 0.1, 0.1)) for i in range(count)}, tmp_path / "claims.png")
        header = (tmp_path / "claims.png").read_bytes()[16:24]
        sizes.append((int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")))
    assert sizes[0][0] < sizes[1][0] == sizes[2][0] and sizes[0][1] == sizes[1][1] < sizes[2][1]


def test_a_result_has_the_wording_of_today_and_must_have_its_checks():
    old = {"says": "truth ends higher", "terms": ["+ truth asl 4", "- truth rule 4"]}
    found = report_claims.with_wording({**small_result(), "checks": [old]}, CLAIMS["b"])
    assert found["sentence"] == CLAIMS["b"].sentence and found["checks"][0]["says"] == CLAIMS["b"].checks[0]["says"]
    with pytest.raises(UserError, match="claim b: its result has other checks"):
        report_claims.with_wording(small_result(), CLAIMS["b"])
