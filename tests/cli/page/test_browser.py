"""The page in a real browser: Debian's Chromium by Playwright. `make setup-browser` brings both."""

from __future__ import annotations

import re
import shutil
import time
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from aslfast.cli.main import app
from aslfast.data.trajectories import write_trajectories
from aslfast.files.jsonl import append_line
from tests.support.cli.page_runs import HOSTILE, QUESTION, policy_records, step_line, watching, write_page_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: make setup-browser")
VIEWS = (
    "#/",
    "#/round/1",
    "#/round/0",
    "#/trajectories",
    "#/time",
    "#/config",
    "#/task?q=" + QUESTION.replace(" ", "+"),
)
FIRST, SECOND = "round-001-policy.1.0", "round-001-policy.1.1"  # the second one read the hostile passage


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    run = write_page_run(folder / "run")
    assert CliRunner().invoke(app, ["report", str(run), "--html"]).exit_code == 0
    return run / "report.html"


@contextmanager
def opened(browser, address, **context):
    """Open a page; at the end nothing was said on the console and nothing was asked of the network."""
    said, asked = [], []
    made = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    page = made.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("main h1")
    yield page
    assert said == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []
    made.close()


def until(page, condition):
    """Wait until a condition holds in the page. Playwright's own wait needs `eval`, which the page forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


@pytest.mark.parametrize("view", [*VIEWS, f"#/t/{FIRST}", f"#/compare?a={FIRST}&b={SECOND}", "#/nowhere", "#/t/none"])
def test_every_view_opens_by_its_address(browser, file, view):
    with opened(browser, f"file://{file}{view}") as page:
        assert page.locator("main h1").count() == 1 and page.locator("main").inner_text()


def test_the_headline_and_the_alarm(browser, file):
    with opened(browser, f"file://{file}") as page:
        assert "50.0% after round 1: +10.0 points" in page.locator("h1").inner_text()
        assert "entropy of the policy" in page.locator(".alarms").inner_text()
        assert page.locator(".chart canvas").count() == 7
        page.locator(".chart summary").first.click()
        until(page, "document.querySelector('.chart details table') !== null")  # `toggle` comes after the click
        assert "50.0%" in page.locator(".chart details table").first.inner_text()


def test_hostile_text_is_text(browser, file):
    with opened(browser, f"file://{file}#/t/{SECOND}") as page:
        page.wait_for_selector(".turn.tool")
        assert page.locator(".turn.tool pre").inner_text() == HOSTILE
        assert page.evaluate("window.hacked") is None and page.locator(".turn img").count() == 0


def test_a_script_from_elsewhere_does_not_run(browser, file, tmp_path):
    """What the file's policy is for: a script that got into it all the same."""
    forged = tmp_path / "forged.html"
    forged.write_text(file.read_text().replace("</main>", "</main><script>window.hacked = 1</script>", 1))
    made = browser.new_context()
    page = made.new_page()
    page.goto(f"file://{forged}")
    page.wait_for_selector("main h1")
    assert page.evaluate("window.hacked") is None
    made.close()


def test_filters_stand_in_the_address(browser, file):
    with opened(browser, f"file://{file}#/trajectories") as page:
        page.wait_for_selector(".row")
        assert "18 of 18" in page.locator("main").inner_text()
        page.select_option("select[name=role]", "policy")
        until(page, "location.hash.includes('role=policy')")
        page.fill("input[name=most]", "0.5")
        page.locator("input[name=most]").press("Enter")
        until(page, "document.querySelector('main').innerText.includes('12 of 18')")
        address = page.url
    with opened(browser, address) as again:
        until(again, "document.querySelector('main').innerText.includes('12 of 18')")


@pytest.mark.parametrize(
    ("query", "count"),
    [("show=disagree", 1), ("show=failed", 4), ("show=alarm&role=policy", 16), ("stop=no_output", 4), ("q=memoir", 8),
     ("q=hacked", 0), ("q=hacked&deep=1", 1), ("least=1&role=policy", 4), ("round=1&step=2", 8)],
)  # fmt: skip
def test_what_a_filter_leaves(browser, file, query, count):
    with opened(browser, f"file://{file}#/trajectories?{query}") as page:
        until(page, f"document.querySelector('main').innerText.includes('{count} of 18 traj')")


def test_the_keyboard(browser, file):
    with opened(browser, f"file://{file}") as page:
        page.keyboard.press("?")
        assert "next, previous" in page.locator("dialog").inner_text()
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        page.keyboard.press("/")
        page.keyboard.type("satire")
        page.keyboard.press("Enter")
        page.wait_for_selector(".row[aria-selected=true]")
        page.locator("h1").click()
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        until(page, "location.hash.startsWith('#/t/')")
        first = page.url
        page.keyboard.press("j")
        until(page, f"location.href !== {first!r}")
        page.keyboard.press("k")
        until(page, f"location.href === {first!r}")
        page.keyboard.press("l")
        until(page, "location.hash === '#/trajectories?q=satire'")


def test_the_time_of_a_step_by_part(browser, file):
    with opened(browser, f"{file.as_uri()}#/time") as page:
        bars = page.locator(".timeline a")
        assert bars.count() == 3 and bars.first.locator("span").count() == 3
        heights = [bars.first.locator("span").nth(i).bounding_box()["height"] for i in range(3)]
        assert heights[0] == pytest.approx(4 * heights[1], rel=0.1) == pytest.approx(2 * heights[2], rel=0.1)
        said = bars.nth(1).get_attribute("title")
        assert "rollout 1.00 s; tool 0.25 s; learn 0.50 s" in said and "MFU 12.5%" in said and "48 requests" in said
        parts = page.get_by_role("region", name=re.compile("Seconds by part"))
        assert parts.get_by_role("row").nth(1).inner_text().split() == ["rollout", "1.0", "2.0", "3.0", "26.7%"]
        assert parts.get_by_role("row").last.inner_text().split() == ["evaluation", "2.0", "4.0", "6.0", "53.3%"]
        phases = page.get_by_role("region", name="Time by phase").inner_text()
        assert "12.5%" in phases and "9,000" in phases


def test_tokens_are_coloured_on_request(browser, file):
    with opened(browser, f"file://{file}#/t/{FIRST}") as page:
        page.wait_for_selector(".turn.sampled")
        assert page.locator(".token").count() == 0
        page.select_option("select[name=colour]", "logprob")
        page.wait_for_selector(".token")
        assert "log-prob \N{MINUS SIGN}0.50" in page.locator(".token").first.get_attribute("title")
        assert page.locator(".turn.sampled .think").count() == 2 and page.locator(".turn.sampled .call").count() == 1


def test_the_judges_trajectory_is_one_click_away(browser, file):
    with opened(browser, f"file://{file}#/t/{FIRST}") as page:
        page.wait_for_selector("aside h3:has-text('Judged in')")
        page.locator("aside h3:has-text('Judged in') + ol a").first.click()
        until(page, "document.querySelector('.turn.prompt')?.innerText.includes('judge:')")


def test_light_dark_and_a_phone(browser, file):
    with opened(browser, f"file://{file}", color_scheme="dark") as page:
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
        page.keyboard.press("d")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 250, 247)"
    for view in (*VIEWS, f"#/t/{SECOND}"):
        with opened(browser, f"file://{file}{view}", viewport={"width": 390, "height": 844}) as page:
            page.wait_for_timeout(150)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, file, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for view in (*VIEWS, f"#/t/{FIRST}?colour=logprob"):
        with opened(browser, f"file://{file}{view}", color_scheme=theme) as page:
            page.wait_for_timeout(150)
            found = axe.run(page).response["violations"]
            bad = [
                (one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert bad == [], view


def test_two_runs_side_by_side(browser, file, tmp_path):
    other = write_page_run(tmp_path / "other")
    both = tmp_path / "both.html"
    args = ["report", str(file.parent), "--html", "--with", str(other), "--out", str(both)]
    assert CliRunner().invoke(app, args).exit_code == 0
    with opened(browser, f"file://{both}") as page:
        assert "Both runs" in page.locator("main").inner_text()
        assert page.locator("nav[aria-label=Runs] a").all_inner_texts() == ["run", "other"]
    with opened(browser, f"file://{both}#/task?q={QUESTION.replace(' ', '+')}") as page:
        assert page.locator(".panes > section").count() == 2


def test_fifty_thousand_trajectories_open_and_scroll(browser, tmp_path):
    """Stated: at most 3 s to the first view, 60 frames a second, below 500 MB. Here with room for other work."""
    records = {f"policy{n}": policy_records(100, 25, 4) for n in range(5)}
    run = write_page_run(tmp_path / "run", records)
    assert CliRunner().invoke(app, ["report", str(run), "--html"]).exit_code == 0
    started = time.monotonic()
    with opened(browser, f"file://{run / 'report.html'}#/trajectories") as page:
        page.wait_for_selector(".row")
        assert time.monotonic() - started < 10
        scroll = """() => new Promise((done) => {
            const list = document.querySelector('.rows'); let frames = 0; const begun = performance.now();
            const turn = () => { list.scrollTop += 400; frames += 1;
              performance.now() - begun < 1000 ? requestAnimationFrame(turn) : done(frames); };
            requestAnimationFrame(turn); })"""
        assert page.evaluate(scroll) > 20
        assert re.search(r"50,000 of 50,000", page.locator("main").inner_text())
        assert page.locator(".row").count() < 60


def test_a_search_that_is_left_changes_nothing(browser, file):
    with opened(browser, f"file://{file}#/trajectories?q=satire&deep=1") as page:
        page.evaluate("location.hash = '#/trajectories?role=grm'")
        until(page, "document.querySelector('main').innerText.includes('2 of 18 traj')")
        page.wait_for_timeout(300)
        assert page.locator("#status").is_hidden() and page.locator(".row").count() == 2
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        until(page, "location.hash.includes('round-001-grm.1.1')")


def test_the_skip_link_and_a_filter_keep_the_place(browser, file):
    with opened(browser, f"file://{file}#/trajectories?role=policy") as page:
        page.locator(".skip").focus()
        page.keyboard.press("Enter")
        assert page.url.endswith("#/trajectories?role=policy")
        assert page.evaluate("document.activeElement.id") == "main"
        page.locator("select[name=step]").focus()
        page.select_option("select[name=step]", "2")
        until(page, "location.hash.includes('step=2') && document.activeElement.name === 'step'")


def test_roles_of_ones_own(browser, tmp_path):
    """A phase of several roles, one of which is called as a method of every object is."""
    run = write_page_run(tmp_path / "run")
    roles = {"toString": {"reward": -1.0}, "policy": {"reward": 1.0}}
    append_line(run / "metrics.jsonl", {**step_line("Duel", 1), "grad_norm": 0.5, "roles": roles,
                                        "other_updates": {"policy": {"grad_norm": 0.7}}})  # fmt: skip
    assert CliRunner().invoke(app, ["report", str(run), "--html"]).exit_code == 0
    with opened(browser, f"file://{run / 'report.html'}#/round/1") as page:
        text = page.locator(".flow").inner_text()
        assert "toString in Duel" in text and "policy in Duel" in text and "0.500" in text and "0.700" in text
    with opened(browser, f"file://{run / 'report.html'}#/toString") as page:
        assert "after round 1" in page.locator("h1").inner_text()


def test_a_live_list_is_right_after_the_run_went_on(browser, tmp_path):
    """What is being read stays; shown anew, rows have their addresses and their own texts, over a phase's end too."""
    run = write_page_run(tmp_path / "run")
    with watching(run) as (url, _), browser.new_page() as page:
        page.goto(f"{url}#/trajectories")
        until(page, "document.querySelector('main').innerText.includes('18 of 18')")
        page.fill("input[name=q]", "dra")
        for step in (1, 2):
            records = [record for record in policy_records(2, 2) if record.step == step]
            write_trajectories(run / "steps" / f"round-002-policy-{step:05}.parquet", records)
            append_line(run / "metrics.jsonl", step_line("policy", step, 2))
        until(page, "document.querySelector('#status').innerText.includes('The run went on')")
        assert page.input_value("input[name=q]") == "dra"
        write_trajectories(run / "trajectories" / "round-002-policy.parquet", policy_records(2, 2))
        page.locator("#status button").click()
        until(page, "document.querySelector('main').innerText.includes('of 34 traj')")
        page.evaluate("location.hash = '#/t/round-002-policy.2.3'")
        until(page, "document.querySelector('.turns')?.innerText.includes('no idea')")
        assert "undefined" not in page.evaluate("[...document.querySelectorAll('a')].map((a) => a.href).join()")


def test_a_live_page_follows_its_run(browser, tmp_path):
    """Stated: figures move within 2 s of a commit. Here with room for other work on the machine."""
    run = write_page_run(tmp_path / "run")
    with watching(run) as (url, server), browser.new_page() as page:
        page.goto(url)
        until(page, "document.querySelector('main').innerText.includes('3 optimizer steps')")
        append_line(run / "metrics.jsonl", step_line("policy", 3))
        until(page, "document.querySelector('main').innerText.includes('4 optimizer steps')")
        server.kill()
        until(page, "document.querySelector('#status').innerText.includes('does not answer')")
        assert "4 optimizer steps" in page.locator("main").inner_text()
