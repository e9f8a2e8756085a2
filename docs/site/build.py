"""Build the site from docs/ and the code, strictly and without network: `make docs` writes build/docs/site."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.site.pages import write_pages  # noqa: E402
from docs.site.reference import write_reference  # noqa: E402


def main(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    write_pages(out / "pages")
    write_reference(out / "pages" / "reference")
    for name in ("mkdocs.yml", "pages/extra.css", "pages/iframe-worker.js"):
        shutil.copyfile(ROOT / "docs" / "site" / Path(name).name, out / name)
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(command, cwd=out, env=os.environ | quiet)
    if done.returncode != 0:
        sys.exit("docs: the site has warnings, see above")
    print(f"{out / 'site' / 'index.html'}: {len(list((out / 'site').rglob('*.html')))} pages")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs")
