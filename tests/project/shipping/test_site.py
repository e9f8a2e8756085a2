"""The site is built strictly, stands alone, and its reference says what the code says: `make docs`."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from aslfast.config.schema import SamplerConfig

pytest.importorskip("material", reason="MkDocs is not installed: make setup-docs")
ROOT = Path(__file__).resolve().parents[3]
WARNING = "[a page](nowhere.md)"


def build(out: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "docs" / "site" / "build.py", out]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "docs"
    done = build(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "site"


def text_of(file: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", file.read_text(encoding="utf-8")))


def test_every_page_of_the_documentation_is_in_it(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    renamed = {Path("README.html"): Path("documents.html"), Path("results/README.html"): Path("results/index.html")}
    assert [page for page in pages if not (site / renamed.get(page, page)).is_file()] == []
    assert "Agentic Self-Learning" in text_of(site / "index.html")


def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    broken = []
    for page in site.rglob("*.html"):
        for target in re.findall(r'<(?:a|img|script|link)\b[^>]*?(?:href|src)="([^"]+)"', page.read_text("utf-8")):
            file, _, anchor = unescape(target).partition("#")
            goal = (page.parent / file.partition("?")[0]) if file else page
            if re.match(r"(https?|data|mailto):", target) or page.name == "404.html":
                continue
            found = goal.exists() and (not anchor or f'id="{anchor}"' in goal.read_text("utf-8"))
            broken += [] if found else [f"{page.relative_to(site)}: {target}"]
    assert broken == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = r'<(?:script|img|iframe|link rel="(?:stylesheet|icon|preconnect)")[^>]*?(?:src|href)="(https?:[^"]*)"'
    assert [url for page in site.rglob("*.html") for url in re.findall(fetched, page.read_text("utf-8"))] == []


def test_the_reference_is_that_of_the_code(site: Path) -> None:
    commands, keys = (text_of(site / "reference" / f"{name}.html") for name in ("commands", "configuration"))
    assert "aslfast index serve" in commands and "--access-log" in commands
    row = re.search(r"sampler\.max_running_requests\s+(\d+)\s+in one batch", keys)
    assert row and int(row[1]) == SamplerConfig().max_running_requests
    assert "BM25Index" in text_of(site / "reference" / "python.html")


@pytest.mark.parametrize(
    ("name", "pictures", "said"), [("demo", 2, "held-out questions"), ("kernels", 1, "counts from 3")]
)
def test_a_notebook_is_a_page_with_what_it_drew_and_printed(site: Path, name: str, pictures: int, said: str) -> None:
    html = (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
    assert html.count('src="data:image/png;base64,') == pictures
    assert said in html and "\x1b" not in html


def test_a_broken_link_stops_the_build(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from docs.site.pages import page

    assert page("[a](../runs.md#x) and [b](nowhere.md)", "docs/recipes/own.md", {
        "docs/runs.md": "runs.md", "docs/recipes/own.md": "recipes/own.md",
    }) == "[a](../runs.md#x) and b"  # fmt: skip
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text(f"# Title\n\n{WARNING}\n")
    config = (ROOT / "docs" / "site" / "mkdocs.yml").read_text().partition("nav:")[0]
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"  - mkdocstrings:(\n {6,}.*)*", "", config).replace("extra.css", ""))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode != 0 and "nowhere.md" in done.stderr
