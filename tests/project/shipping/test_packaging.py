"""What is published works: sdist -> wheel -> clean environments elsewhere, without network, compiler and checkout.

With ASLFAST_WHEELS=dist the wheels that `make wheels` left there are tested instead of one that is built here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import aslfast_kernels
from aslfast import __version__
from tests.support.wheels.containerfile import instructions, run_steps
from tests.support.wheels.link_farm import clean_environment

ROOT = Path(__file__).resolve().parents[3]
OFFLINE = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
BUILT = os.environ.get("ASLFAST_WHEELS")
MOST_MIB = 12
SIMD = {"avx2": "avx2", "avx512bw": "avx512"}  # flag of the processor -> what the index calls it
TRAIN = "train --recipe tiny --out run --quiet --set rounds=1 --set data.eval_count=10 --set generator.steps=1"
TRAIN += " --set grm.steps=1 --set policy.steps=1 --set policy.prompts_per_step=4 --set grm.prompts_per_step=4"
TRAIN += " --set generator.prompts_per_step=2 --set generator.rollouts_per_question=2 --set policy.group_size=4"
USE_IT = """
import sys
from pathlib import Path
import aslfast.index
from aslfast.data.corpus import Passage
assert "torch" not in sys.modules, "searching must not load torch"
index = aslfast.index.BM25Index.build([Passage("a", "running dogs"), Passage("b", "cats")], "idx")
assert index.search(["the dog"]).ids == [["a"]]
print(Path(aslfast.__file__).parent.parent)
"""

USE_KERNELS = """
import importlib.metadata
import torch
import aslfast_kernels
logp = aslfast_kernels.linear_logprob(torch.ones(1, 4), torch.zeros(5, 4), torch.tensor([3]))
print(aslfast_kernels.__file__, aslfast_kernels.__version__, importlib.metadata.version("aslfast-kernels"))
print(round(float(logp.exp()), 6))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_sdist(source: Path, out: Path) -> Path:
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})", cwd=source)
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sdist(ROOT, tmp_path_factory.mktemp("sdist"))


def wheel_of(pattern: str, source: Path, out: Path) -> Path:
    """Return a wheel that `make wheels` built, or build one."""
    if BUILT:
        return next((ROOT / BUILT).glob(pattern))
    pip_wheel = [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--no-build-isolation"]
    run(*pip_wheel, "--wheel-dir", out, source, cwd=out)
    return next(out.glob(pattern))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tag = f"cp3{sys.version_info.minor}"
    return wheel_of(f"aslfast-*{tag}-{tag}-*.whl", sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def kernels_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy, out = tmp_path_factory.mktemp("kernels"), tmp_path_factory.mktemp("kernels-wheel")
    run("cp", "-rL", ROOT / "kernels", copy, cwd=ROOT)
    return wheel_of("aslfast_kernels-*-py3-none-any.whl", copy / "kernels", out)


def files_of(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def declared(wheel: Path, key: str) -> list[str]:
    """Return the values of a key in a wheel's metadata."""
    archive = zipfile.ZipFile(wheel)
    text = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(text).get_all(key) or []


def metadata_of(wheel: Path) -> list[str]:
    """Return the requirements that a wheel declares."""
    return declared(wheel, "Requires-Dist")


def extras_of(wheel: Path) -> set[str]:
    return set(declared(wheel, "Provides-Extra"))


def installed(wheels: list[Path], extras: set[str], folder: Path) -> Path:
    """Return the interpreter of a clean environment with the wheels and the dependencies that they declare."""
    requirements = [text for wheel in wheels for text in metadata_of(wheel)]
    python = clean_environment(folder / "env", requirements, extras)
    run(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, *wheels, cwd=folder)
    return python


def alone(python: Path) -> dict[str, str]:
    """Return what makes an environment stand alone: its own commands on PATH, so no compiler, and no checkout."""
    return {"PATH": str(python.parent), "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}


def test_the_sdist_has_the_sources_and_no_builds(sdist: Path) -> None:
    names = files_of(sdist)
    assert {
        "csrc/python/bindings.cpp",
        "csrc/text/make_unicode.py",
        "CMakeLists.txt",
        "LICENSE",
        "kernels/__init__.py",
    } <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith((".venv", "runs"))]
    assert not [name for name in names if name.startswith("bench/results/") and name.endswith(".safetensors")]


def test_the_wheel_has_every_module_and_data_file_and_nothing_else(sdist: Path, wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not re.search("[.]dist-info/|/$", name)}
    owed = {name for name in files_of(sdist) if name.startswith("aslfast/")}
    compiled = {name for name in names if re.fullmatch(r"aslfast/_bm25\..*\.so", name)}
    assert len(owed) > 100 and len(compiled) == 1 and names - compiled == owed
    assert wheel.stat().st_size <= MOST_MIB * 2**20


def test_the_wheel_of_the_kernels_has_them_and_nothing_else(kernels_wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(kernels_wheel).namelist() if not re.search("[.]dist-info/|/$", name)}
    tracked = run("git", "ls-files", "kernels", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    owed = {re.sub("^kernels/", "aslfast_kernels/", name) for name in tracked if name.endswith((".py", ".md"))}
    assert names == owed or not tracked


def test_the_index_alone_needs_no_torch(wheel: Path) -> None:
    plain = [text for text in metadata_of(wheel) if "extra ==" not in text]
    unwanted = "torch|triton|transformers|uvicorn|matplotlib"
    assert plain and not [text for text in plain if re.match(unwanted, text)]


def test_both_packages_have_one_version() -> None:
    assert aslfast_kernels.__version__ == __version__


@pytest.mark.parametrize("module", ["aslfast.trainer.preflight.versions", "examples.from_nothing.check"])
def test_every_place_names_the_same_pythons(module: str) -> None:
    first, last = importlib.import_module(module).PYTHONS
    said = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
    for page in ("README.md", "docs/start/install.md", "docs/project/changelog.md", "Makefile"):
        assert said in (ROOT / page).read_text(encoding="utf-8"), page
    required = f'requires-python = ">={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"'
    assert required in (ROOT / "pyproject.toml").read_text()


def test_the_kernels_are_imported_in_a_clean_folder(kernels_wheel: Path, tmp_path: Path) -> None:
    site, elsewhere, version = tmp_path / "site", tmp_path / "elsewhere", aslfast_kernels.__version__
    elsewhere.mkdir()
    assert kernels_wheel.name == f"aslfast_kernels-{version}-py3-none-any.whl"
    sources = [file.relative_to(ROOT / "kernels") for file in (ROOT / "kernels").rglob("*.py")]
    owed = {f"aslfast_kernels/{file}" for file in sources if "build" not in file.parts}
    assert owed <= set(zipfile.ZipFile(kernels_wheel).namelist())
    zipfile.ZipFile(kernels_wheel).extractall(site)
    said = run(sys.executable, "-c", USE_KERNELS, cwd=elsewhere, PYTHONPATH=str(site))
    assert said.split() == [str(site / "aslfast_kernels/__init__.py"), version, version, "0.2"]


def test_the_same_sources_give_the_same_bytes(kernels_wheel: Path, tmp_path: Path) -> None:
    """In another folder, at another time; the compiled wheel: make wheels-twice."""
    digests = []
    for name in ("first", "second"):
        copy, out = tmp_path / name / "kernels", tmp_path / f"{name}-out"
        copy.parent.mkdir()
        run("cp", "-rL", ROOT / "kernels", copy, cwd=ROOT)
        pip_wheel = [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--no-build-isolation"]
        run(*pip_wheel, "--wheel-dir", out, copy, cwd=tmp_path, SOURCE_DATE_EPOCH="1764000000")
        digests.append(hashlib.sha256(next(out.glob("*.whl")).read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_the_index_works_alone(wheel: Path, tmp_path: Path) -> None:
    """With the declared dependencies only. What is not there is named in one line."""
    python = installed([wheel], set(), tmp_path)
    where = run(python, "-c", USE_IT, cwd=tmp_path, **alone(python))
    names = run(python, "-c", "from aslfast import _bm25; print(*_bm25.simd_names())", cwd=tmp_path, **alone(python))
    flags = Path("/proc/cpuinfo").read_text().split()
    assert names.split() == ["scalar", *(name for flag, name in SIMD.items() if flag in flags)]
    assert where.strip().startswith(str(tmp_path / "env"))
    (tmp_path / "c.jsonl").write_text('{"id": "a", "contents": "running dogs"}\n')
    aslfast = python.parent / "aslfast"
    run(aslfast, "index", "build", "c.jsonl", "--out", "new.idx", cwd=tmp_path, **alone(python))
    assert "running dogs" in run(aslfast, "index", "search", "new.idx", "dog", cwd=tmp_path, **alone(python))
    for command, extra in (("train", "train"), ("index serve new.idx", "serve")):
        done = subprocess.run(
            [aslfast, *command.split()], cwd=tmp_path, env=os.environ | alone(python), capture_output=True, text=True
        )
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "pip install" in done.stderr and f"'aslfast[{extra}]'" in done.stderr


def test_the_index_is_served(wheel: Path, tmp_path: Path) -> None:
    python = installed([wheel], {"serve"}, tmp_path)
    run(python, "-c", USE_IT, cwd=tmp_path, **alone(python))
    serve = [python.parent / "aslfast", "index", "serve", "idx", "--port", "0", "--json"]
    server = subprocess.Popen(serve, cwd=tmp_path, env=os.environ | alone(python), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        body = json.dumps({"queries": ["dog"], "topk": 1}).encode()
        request = urllib.request.Request(f"{url}/retrieve", body, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert "running dogs" in opener.open(request, timeout=30).read().decode()
    finally:
        server.kill()
        server.communicate()


def test_a_round_is_trained(wheel: Path, kernels_wheel: Path, tmp_path: Path) -> None:
    python = installed([wheel, kernels_wheel], {"train"}, tmp_path)
    run(python.parent / "aslfast", *TRAIN.split(), cwd=tmp_path, **alone(python))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line).get("round") for line in lines} >= {1}


CONTAINERS = sorted((ROOT / "examples" / "containers").glob("Containerfile.*"))
MAKE_VENV = """
    test "$*" = "-m venv $IMAGE/opt/aslfast"
    mkdir -p "$3/bin"
    printf '#!/bin/sh\\necho "$*" >> %s/pip\\n' "$IMAGE" > "$3/bin/pip"
    chmod +x "$3/bin/pip"
"""
IN_THE_IMAGE = {  # what only an image has: an interpreter to make the environment with, packages, a network, users
    "python": MAKE_VENV,
    "python3": MAKE_VENV,
    "apt-get": 'mkdir -p $IMAGE/var/lib/apt/lists/archive; echo "$*" >> $IMAGE/apt',
    "useradd": 'echo "$*" > $IMAGE/users',
    "chown": 'test -d "$2"',
}


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.suffix[1:])
def test_containers_run_without_rights_and_listen_on_loopback(file: Path) -> None:
    found = instructions(file)
    order = [name for name, _ in found]
    assert dict(found)["USER"].isdigit() and int(dict(found)["USER"]) >= 1000
    assert order.index("USER") > max(at for at, name in enumerate(order) if name in ("RUN", "COPY"))
    assert not [words for _, words in found if "0.0.0.0" in words or "EXPOSE" in words]
    assert re.search(r":\d[\w.-]+$", dict(found)["FROM"])  # a version, never latest


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.suffix[1:])
def test_hadolint_finds_nothing(file: Path, tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not hadolint:
        pytest.skip("hadolint is not installed: make setup-docs")
    run(hadolint, file, cwd=tmp_path)
    (tmp_path / "bad").write_text("FROM debian\nRUN cd /tmp && sudo apt-get install gcc\n")
    assert subprocess.run([hadolint, tmp_path / "bad"], capture_output=True).returncode == 1


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.suffix[1:])
def test_the_steps_of_the_container_lead_to_the_wheels(
    file: Path, wheel: Path, kernels_wheel: Path, tmp_path: Path
) -> None:
    """Every copy and command, pip's and apt's recorded; then the wheels are installed and its ENTRYPOINT is run.

    Of CUDA's extras only `train` is installed, which `sglang` holds: what else they need is not at hand.
    """
    context, image = tmp_path / "context", tmp_path / "image"
    (context / "dist").mkdir(parents=True)
    image.mkdir()
    shutil.copy(ROOT / "requirements.txt", context)
    for one in (wheel, kernels_wheel):
        shutil.copy(one, context / "dist")
    users = run_steps(file, context, image, IN_THE_IMAGE, os.environ | {"IMAGE": str(image)})
    assert set(users) == {"root"} and (image / "data").is_dir() and not (image / "wheels").exists()
    assert not list(image.glob("var/lib/apt/lists/*"))
    *torch, rest = (image / "pip").read_text().splitlines()
    assert f"--find-links {image}/wheels" in rest and len(torch) == (file.suffix == ".cpu")
    assert all(re.search(r"/whl/cpu torch==[\d.]+$", line) for line in torch)
    extras = set(re.search(r"aslfast\[(.*)\]$", rest)[1].split(","))
    assert extras <= extras_of(wheel)
    python = installed([wheel, kernels_wheel], extras if file.suffix == ".cpu" else {"train"}, tmp_path)
    entry = json.loads(dict(instructions(file))["ENTRYPOINT"])
    assert "Usage: aslfast" in run(python.parent / entry[0], "--help", cwd=tmp_path, **alone(python))


def test_the_development_install_finds_both_packages(tmp_path: Path) -> None:
    code = USE_IT + "\nimport aslfast_kernels; print(Path(aslfast_kernels.__file__).parent.parent)"
    where = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH="")
    assert len(where.split()) == 2
