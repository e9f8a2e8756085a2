"""docs/start/h100.md works: its commands run in their order, with a tiny model, a lab and servers that stand in.

Shell functions take the place of pip, hf, the engines and what a GPU would do; the rest is the real `aslfast`, on a
CPU. The run is really stopped in its middle, so that `--resume` has something to do. Of the seven evaluations, which
are one command, two are run.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aslfast.files.shipped import LAB_BASE
from aslfast.lab.world import World
from tests.support.source_tree import pages

PAGE = (pages.ROOT / "docs" / "start" / "h100.md").read_text(encoding="utf-8")
CHECK = pages.ROOT / "examples" / "from_nothing" / "check.py"
SEVEN = ("nq/test", "triviaqa/test", "popqa/test", "hotpotqa/dev", "2wikimultihopqa/dev", "musique/dev")
SEVEN += ("bamboogle/test",)
SMALL = (
    "model.device=cpu model.dtype=float32 model.prompts=compact sampler.kind=local sampler.max_context=512 "
    "sampler.max_new_tokens=48 tool.top_k=2 policy.steps=3 policy.prompts_per_step=4 policy.group_size=2 "
    "data.eval_count=4 learner.micro_batch_tokens=2048 learner.activation_checkpointing=none threads=1"
)
HF = f"""#!{sys.executable}
import fnmatch, shutil, sys
from pathlib import Path
words = [word for word in sys.argv[2:]]
out = Path(words[words.index("--local-dir") + 1])
named = [word for word in words[1:words.index("--local-dir")] if not word.startswith("--") and word != "dataset"]
repository = Path("hub") / words[0]
for file in named or [path.relative_to(repository) for path in repository.rglob("*") if path.is_file()]:
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(repository / file, out / file)
"""
SMI = "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 580.65.06'\n"
FUNCTIONS = r"""
set -euo pipefail; PS4="+\$SECONDS "; set -x
export PYTHONUNBUFFERED=1
python3() { mkdir -p env/bin; : > env/bin/activate; }
pip() { echo "$*" > installed; }
vllm() { test "$1" = serve; test -s "$2/model.safetensors" -a -s "$2/config.json"; echo vllm >> served; }
python() {
    case "$1" in
        examples/*) "$PY" "$@" --disk-gb 0 --ram-gb 0 --packages aslfast torch --ports $PORT ;;
        *) test "$2" = sglang.launch_server -a -s "$4/model.safetensors"; echo sglang >> served ;;
    esac
}
real() { "$PY" -m aslfast "$@"; }
stopped() {
    "$PY" -m aslfast "$@" & pid=$!
    until [ -s run/metrics.jsonl ]; do kill -0 $pid; sleep 0.1; done
    kill -TERM $pid; code=0; wait $pid || code=$?; echo $code > stopped
}
until_it_answers() {
    "$PY" -m aslfast "${@:2}" > "$1" & server=$!
    until grep -q http "$1"; do kill -0 $server; sleep 0.1; done
    kill -TERM $server; wait $server || true
}
aslfast() {
    case "$*" in
        plan*) real "$@" --set sampler.max_context=512 ;;
        doctor*) echo "$*" > doctor ;;
        *--dry-run*) real "$@" $SMALL ;;
        "train --recipe"*) stopped "$@" $SMALL ;;
        watch*) until_it_answers watched "$@" --port 0 ;;
        eval*nq*|eval*bamboogle*) real "$@" --limit 2 --prompts compact ;;
        eval*) test -s "$5"; echo '{"stand-in": "the same command"}' ;;
        *serve*) until_it_answers served.json "$@" --port 0 --json ;;
        *) real "$@" ;;
    esac
}
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def write_lines(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def fill_hub(hub: Path) -> None:
    """Write the repositories that the page names, in their layout: a tiny model, the lab's passages and questions."""
    shutil.copytree(LAB_BASE, hub / "Qwen" / "Qwen2.5-7B-Instruct")
    world = World.make(0, "train")
    lines = "".join(json.dumps({"id": one.id, "contents": one.text}) + "\n" for one in world.passages())
    (hub / "PeterJinGo" / "wiki-18-corpus").mkdir(parents=True)
    (hub / "PeterJinGo" / "wiki-18-corpus" / "wiki-18.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    asked = world.questions(random.Random(0), 24)
    rows = [
        {"id": str(number), "question": one.question, "golden_answers": [one.answer]}
        for number, one in enumerate(asked)
    ]
    for name in SEVEN:
        write_lines(hub / "RUC-NLPIR" / "FlashRAG_datasets" / f"{name}.jsonl", rows)
    for row in rows:
        row["reward_model"] = {"style": "rule", "ground_truth": {"target": row["golden_answers"]}}
    (hub / "PeterJinGo" / "nq_hotpotqa_train").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), hub / "PeterJinGo" / "nq_hotpotqa_train" / "train.parquet")


def executable(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all commands of the page."""
    folder = tmp_path_factory.mktemp("h100")
    fill_hub(folder / "hub")
    executable(folder / "bin" / "hf", HF)
    executable(folder / "bin" / "nvidia-smi", SMI)
    (folder / "examples").symlink_to(pages.ROOT / "examples")
    script = FUNCTIONS + "\n".join(pages.fenced(PAGE, "sh")) + "\nwait\n"
    settings = {"PY": sys.executable, "PORT": str(free_port()), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    settings["SMALL"] = " ".join(f"--set {setting}" for setting in SMALL.split())
    with (folder / "said").open("w") as said:
        command = ["bash", "-c", script]
        done = subprocess.run(command, cwd=folder, env=os.environ | settings, stdout=said, stderr=said, timeout=1500)
    assert done.returncode == 0, (folder / "said").read_text()[-3000:]
    return folder


def test_the_run_was_stopped_and_resumed(played: Path) -> None:
    assert (played / "stopped").read_text() == "130\n"
    lines = [json.loads(line) for line in (played / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_seven_benchmarks_were_evaluated(played: Path) -> None:
    results = [json.loads(file.read_text()) for file in (played / "questions").glob("*/result.json")]
    assert len(results) == 7 and all(results)


def test_the_agent_was_exported_and_served(played: Path) -> None:
    assert (played / "served").read_text().split() == ["sglang", "vllm"] or (played / "served").read_text().split() == [
        "vllm", "sglang",
    ]  # fmt: skip
    assert json.loads((played / "served.json").read_text().splitlines()[0])["url"].startswith("http://127.0.0.1:")
    assert pq.read_table(played / "answers.parquet").num_rows == 4


def test_the_page_was_watched_and_the_machine_checked(played: Path) -> None:
    assert "http://127.0.0.1:" in (played / "watched").read_text()
    said = (played / "said").read_text()
    assert "ok   GPU: NVIDIA H100 80GB HBM3, 86 GB" in said and "ready" in said
    assert "KV pool" in said and (played / "doctor").read_text() == "doctor --sampler sglang\n"


def check(*args: str, path: str = "/nowhere") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECK), "--ports", *args]
    return subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60)


def test_the_check_names_what_is_missing() -> None:
    done = check("--disk-gb", "1e9", "--packages", "no_such_package_here")
    failed = {line.split(":")[0].removeprefix("FAIL ") for line in done.stdout.splitlines() if line.startswith("FAIL")}
    assert done.returncode == 1 and {"GPU", "disk", "packages", "hf"} <= failed


def test_the_check_refuses_a_small_gpu_an_old_driver_and_a_busy_port(tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\necho 'NVIDIA L4, 23034, 535.1'\n")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        done = check(str(listener.getsockname()[1]), path=f"{tmp_path / 'bin'}:/bin:/usr/bin")
    said = done.stdout
    assert "FAIL GPU: NVIDIA L4, 24 GB" in said and "FAIL driver: 535.1" in said and "FAIL ports: in use" in said
