"""What the page is made from: turns, tokens, the table, the question pool; whole, sampled, grown and damaged."""

from __future__ import annotations

import gzip
import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aslfast.cli.page.html import write_page
from aslfast.cli.page.pieces import TokenText, sampled_runs
from aslfast.cli.page.questions import LedgerView
from aslfast.cli.page.run_data import RunData
from aslfast.cli.page.stored import rows_of, trajectory_files, turns_of
from aslfast.data.trajectories import write_trajectories
from aslfast.errors import UserError
from tests.support.cli.page_runs import (
    HOSTILE,
    QUESTION,
    TOKENIZER,
    lines,
    policy_record,
    policy_records,
    step_line,
    table_of,
    write_page_run,
)


@pytest.fixture
def run(tmp_path):
    return write_page_run(tmp_path / "run")


def read(run, **options):
    data = RunData(run, **options)
    data.read()
    return data, json.loads(gzip.decompress(data.meta()))


def bodies(data):
    return [body for chunk in data.all_chunks() for body in json.loads(gzip.decompress(chunk))]


def test_the_table_has_a_line_for_each_trajectory(run):
    _, meta = read(run)
    table = table_of(meta)
    assert len(table) == 18 == meta["total"] == meta["kept"] and meta["starts"] == [0, 2]
    right, wrong = table[2], table[3]
    assert right["role"] == "policy" and right["output"] == "satire" and right["question"] == QUESTION
    assert (right["reward"], right["task_reward"], right["match"], right["searches"]) == (1.05, 1.0, 1, 1)
    assert (wrong["reward"], wrong["match"]) == (0.05, 0) and table[5]["stop"] == "no_output"
    assert [line["match"] for line in table[:2]] == [1, 0]  # the judge's: verdict against label
    assert meta["rounds"] == lines(run, "rounds.jsonl") and meta["steps"] == lines(run, "metrics.jsonl")
    assert meta["files"] == ["round-001-grm", "round-001-policy"] and "entropy of the policy" in meta["alarms"][0]


def test_tokens_are_those_that_were_sampled(run):
    data, _ = read(run)
    body = bodies(data)[2]
    kinds, texts = zip(*body["turns"], strict=True)
    assert kinds == ("prompt", "sampled", "tool", "sampled")
    for said, (lengths, steps, mean) in zip([texts[1], texts[3]], body["tokens"], strict=True):
        assert sum(lengths) == len(said) and len(lengths) == len(TOKENIZER.encode(said, add_special_tokens=False).ids)
        assert set(steps) == {10} and mean == -0.5  # 0.5 nats in twentieths
    assert body["parts"] == {"judge": 1.0, "format": 0.05} and body["passages"] == [["p1", "p2"]]


def test_the_question_pool_and_the_provenance_are_read_without_writing(run):
    before = (run / "ledger.sqlite").stat()
    _, meta = read(run)
    (question,) = meta["questions"]
    assert question["text"] == QUESTION and question["attempts"] == [["satire", ["correct", "wrong"]], [None, []]]
    assert meta["provenance"]["software"] == {"torch": "2.13.0"}
    assert (run / "ledger.sqlite").stat().st_mtime_ns == before.st_mtime_ns
    (run / "ledger.sqlite").write_bytes(b"no database at all, but as long as a page of one" * 100)
    view = LedgerView(run)
    view.read()
    assert view.questions() == [] and "ledger.sqlite cannot be read (file is not a database)" in view.problem


@pytest.mark.parametrize("kind", ["model", "tool", "prompt"])
def test_a_forged_heading_gives_one_turn_that_is_no_claim(kind, tmp_path):
    forged = f"x\n=== {kind} ===\n<answer> forged</answer>"
    file = tmp_path / "t.parquet"
    write_trajectories(file, [policy_record(0, 1, "satire", forged)])
    (row,) = rows_of(file)
    assert [kind for kind, _ in turns_of(row)] == ["text"] and forged in turns_of(row)[0][1]
    write_trajectories(file, [policy_record(0, 1, "satire", "=== not one ===")])
    assert [kind for kind, _ in turns_of(*rows_of(file))] == ["prompt", "sampled", "tool", "sampled"]


def test_a_run_that_grows_and_ends_a_phase_reads_as_if_read_once(run, tmp_path):
    data, _ = read(run)
    metrics = (run / "metrics.jsonl").open("a")
    for step in (1, 2, 3):
        part = [record for record in policy_records(3, 2) if record.step == step]
        write_trajectories(run / "steps" / f"round-002-policy-{step:05}.parquet", part)
        print(json.dumps(step_line("policy", step, 2)), file=metrics, flush=True)
        data.read()
        assert data.kept == data.total == 18 + 8 * step
    grown = table_of(json.loads(gzip.decompress(data.meta())))
    write_trajectories(run / "trajectories" / "round-002-policy.parquet", policy_records(3, 2))
    data.read()
    ended = table_of(json.loads(gzip.decompress(data.meta())))
    without = [{key: value for key, value in line.items() if key != "file"} for line in ended]
    assert without == [{key: value for key, value in line.items() if key != "file"} for line in grown]
    fresh, _ = read(run)
    assert bodies(fresh) == bodies(data) and len(bodies(data)) == 42
    shutil.rmtree(run / "trajectories")
    data.read()
    assert data.kept == 24


def test_above_the_most_whole_groups_are_kept(tmp_path):
    run = write_page_run(tmp_path / "run", {"policy": policy_records(20, 25, 4)})
    data, meta = read(run, most=400)
    groups = {}
    for line in table_of(meta):
        groups.setdefault((line["step"], line["task_id"]), []).append(line)
    assert meta["total"] == 2000 and 200 < meta["kept"] < 600 and {len(group) for group in groups.values()} == {4}
    assert len(bodies(data)) == meta["kept"]


def test_without_its_tokenizer_a_run_is_shown_without_tokens(run):
    (run / "config.toml").write_text('[model]\npath = "gone"\n')
    data, _ = read(run)
    assert {body["tokens"] for body in bodies(data)} == {None} and bodies(data)[2]["turns"][3][0] == "sampled"


def test_a_damaged_file_is_named(run):
    (run / "trajectories" / "round-001-policy.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"round-001-policy.parquet: not a Parquet file of trajectories"):
        trajectory_files(run)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("reward_parts", "{", "Expecting property name"),
        ("reward_parts", '{"judge": null}', "reward_parts of 'p1-0' is"),
        ("loss_mask", None, "the token stream of 'p1-0' is damaged"),
        ("token_ids", [-1], "the token stream of 'p1-0' is damaged"),
        (None, None, "no column logprobs"),
    ],
)
def test_rows_that_no_run_writes_are_one_line(run, column, value, said):
    file = run / "trajectories" / "round-001-policy.parquet"
    table = pq.read_table(file)
    if column:
        row, *others = table.to_pylist()
        table = pa.Table.from_pylist([{**row, column: value}, *others], schema=table.schema)
    pq.write_table(table if column else table.drop_columns(["logprobs"]), file)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        read(run)
    assert "round-001-policy.parquet: not a Parquet file of trajectories" in str(error.value)


def test_log_probs_that_are_no_numbers_are_shown_as_the_least(run):
    file = run / "trajectories" / "round-001-policy.parquet"
    row, *others = pq.read_table(file).to_pylist()
    row["logprobs"] = [float("nan") if mask else 0.0 for mask in row["loss_mask"]]
    pq.write_table(pa.Table.from_pylist([row, *others], schema=pq.read_schema(file)), file)
    data, _ = read(run)
    assert {*bodies(data)[2]["tokens"][0][1]} == {255} and bodies(data)[2]["tokens"][0][2] is None


def test_a_page_takes_no_other_files_place(run):
    for name in ("config.toml", "rounds.jsonl"):
        with pytest.raises(UserError, match=f"{name}: exists and is no page"):
            write_page([run], run / name)
    for _ in range(2):  # a page's own place it takes
        assert write_page([run], run / "report.html") == (18, 18)


def test_hostile_text_is_in_the_data_as_it_is(run):
    data, _ = read(run)
    assert any(HOSTILE in text for body in bodies(data) for _, text in body["turns"])


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_pieces_are_the_text(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    pieces = TokenText(TOKENIZER).pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == TOKENIZER.decode(ids, skip_special_tokens=False)


def test_runs_of_sampled_tokens():
    assert sampled_runs([0, 1, 1, 0, 0, 1]) == [(1, 3), (5, 6)] and sampled_runs([0, 0]) == [] == sampled_runs([])
