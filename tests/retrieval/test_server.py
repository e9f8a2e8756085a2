"""The retrieval server: answers, batches, start and stop. Limits: test_server_limits.py; the client: test_client.py."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from aslfast.errors import UserError
from aslfast.retrieval.app import Retrieval
from aslfast.retrieval.batcher import Batcher
from aslfast.retrieval.protocol import ServerLimits
from aslfast.retrieval.server import is_loopback, open_port
from tests.support.index.retrieval_server import Serving, post, read_all, retrieve

QUERIES = ["Raze Lankim author", "genre epic", "zzz", "setting of Tepu Nundin"]


@pytest.fixture(scope="module")
def served(lab_index):
    with Serving(lab_index.path) as server:
        yield server


def documents(index, queries, k):
    """Return the expected answer from the index itself: [(document, score), ...] for each query."""
    ids, scores = index.search(queries, k)
    contents = {p.id: p.contents for p in index.passages(sorted({i for row in ids for i in row}))}
    return [
        [({"id": i, "contents": contents[i]}, float(s)) for i, s in zip(row, line, strict=False)]
        for row, line in zip(ids, scores, strict=True)
    ]


@pytest.mark.parametrize("k", [1, 3, 100])
def test_answers_are_those_of_the_index(served, lab_index, k):
    expected = documents(lab_index, QUERIES, k)
    scored = retrieve(served, queries=QUERIES, topk=k, return_scores=True).json()
    assert scored == {"result": [[{"document": d, "score": s} for d, s in row] for row in expected]}
    bare = retrieve(served, queries=QUERIES, topk=k, return_scores=False).json()
    assert bare == {"result": [[d for d, _ in row] for row in expected]}
    assert expected[2] == []


def test_the_defaults_are_three_passages_without_scores(served, lab_index):
    expected = {"result": [[d for d, _ in row] for row in documents(lab_index, QUERIES, 3)]}
    assert retrieve(served, queries=QUERIES).json() == expected
    assert retrieve(served, queries=QUERIES, topk=None).json() == expected
    assert retrieve(served, queries=[]).json() == {"result": []}


@pytest.mark.parametrize(
    "sent",
    [
        {"topk": "2"},
        {"topk": 2.0},
        {"topk": 2, "return_scores": "true"},
        {"topk": 2, "return_scores": 1},
        {"topk": 2, "retriever": "e5", "top_k": 9, "timeout": 30},
    ],
    ids=str,
)
def test_what_search_r1s_clients_send_is_taken(served, lab_index, sent):
    """Fields that the server does not know, and numbers as text, as pydantic takes them there."""
    rows = documents(lab_index, QUERIES, 2)
    scored = [[{"document": d, "score": s} for d, s in row] for row in rows]
    expected = scored if "return_scores" in sent else [[d for d, _ in row] for row in rows]
    assert retrieve(served, queries=QUERIES, **sent).json() == {"result": expected}


def test_a_slash_at_the_end_of_a_path(served):
    asked = {"queries": QUERIES, "topk": 2}
    answer = httpx.post(f"{served.url}/retrieve/", json=asked, trust_env=False)
    assert answer.status_code == 200 and answer.json() == retrieve(served, **asked).json()
    assert httpx.get(f"{served.url}/health/", trust_env=False).json()["status"] == "ok"


def test_half_a_surrogate_pair_is_a_query(served):
    answer = httpx.post(f"{served.url}/retrieve", content=b'{"queries": ["\\ud800 genre epic"]}', trust_env=False)
    assert answer.json() == retrieve(served, queries=["? genre epic"]).json()


def test_health(served, lab_index):
    health = httpx.get(f"{served.url}/health", trust_env=False).json()
    assert (health["status"], health["passages"]) == ("ok", len(lab_index)) and health["generation"] >= 0
    assert health["limits"]["queries"] == ServerLimits().queries


# --- in the process --------------------------------------------------------------------------------------------


def test_batches_of_several_depths_answer_as_single_searches(lab_index):
    class Counting:
        """The index, which counts its searches."""

        calls = 0

        def search(self, queries, k, *, threads):
            self.calls += 1
            return lab_index.search(queries, k, threads=threads)

        passages = lab_index.passages

    counting, rng = Counting(), np.random.default_rng(0)
    asked = [([QUERIES[i] for i in rng.integers(0, 4, 1 + n % 7)], 1 + n % 13) for n in range(60)]

    async def all_at_once():
        batcher = Batcher(counting, threads=1, batch_queries=64)
        try:
            return await asyncio.gather(*(batcher.search(queries, k) for queries, k in asked))
        finally:
            batcher.close()

    for (queries, k), found in zip(asked, asyncio.run(all_at_once()), strict=True):
        got = [[({"id": h.passage.id, "contents": h.passage.contents}, h.score) for h in row] for row in found]
        assert got == documents(lab_index, queries, k)
    assert 60 / 64 < counting.calls < 10


def test_a_request_fails_by_its_own_fault_alone(lab_index):
    class Damaged:
        def search(self, queries, k, *, threads):
            if "damaged" in queries:
                raise ValueError("postings.bin: page 3 is damaged")
            return lab_index.search(queries, k, threads=threads)

        passages = lab_index.passages

        def __len__(self):
            return len(lab_index)

    async def both():
        retrieval = Retrieval(Damaged(), ServerLimits(), threads=1)
        transport = httpx.ASGITransport(retrieval.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            bodies = [{"queries": [query]} for query in ("genre epic", "damaged", "genre epic")]
            answers = await asyncio.gather(*(client.post("/retrieve", json=body) for body in bodies))
        retrieval.batcher.close()
        return answers

    first, second, third = asyncio.run(both())
    assert first.status_code == third.status_code == 200 and first.json() == third.json()
    assert second.status_code == 500 and "page 3 is damaged" in second.json()["error"]


def test_too_many_requests_get_503(lab_index):
    async def several():
        retrieval = Retrieval(lab_index, ServerLimits(requests=2), threads=1)
        transport = httpx.ASGITransport(retrieval.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answers = await asyncio.gather(*(client.post("/retrieve", json={"queries": QUERIES}) for _ in range(5)))
            after = await client.post("/retrieve", json={"queries": QUERIES})
        retrieval.batcher.close()
        return answers, after

    answers, after = asyncio.run(several())
    assert sorted(a.status_code for a in answers) == [200, 200, 503, 503, 503] and after.status_code == 200
    refused = next(a for a in answers if a.status_code == 503)
    assert refused.headers["retry-after"] == "1" and "the limit" in refused.json()["error"]


# --- start and stop --------------------------------------------------------------------------------------------


def wait_until_refused(server):
    for _ in range(500):
        try:
            socket.create_connection(server.address).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    raise AssertionError("the server still takes connections")


def wait_until_read(server, count):
    """Until the server has accepted so many connections and read all that came over them: Linux's own table says so."""
    port = f":{server.address[1]:04X}"
    for _ in range(1000):
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        queues = [row[4].partition(":")[2] for row in rows if row[1].endswith(port) and row[3] in ("01", "0A")]
        if len(queues) == count + 1 and all(int(waiting, 16) == 0 for waiting in queues):  # and the listening one
            return
        time.sleep(0.005)
    raise AssertionError("the server does not read")


def test_sigterm_loses_no_request_under_way_and_refuses_new_ones(lab_index):
    body = json.dumps({"queries": QUERIES * 400, "topk": 10}).encode()
    expected = [[d for d, _ in row] for row in documents(lab_index, QUERIES, 10)] * 400
    with Serving(lab_index.path) as server, ThreadPoolExecutor(16) as pool:
        connections = [socket.create_connection(server.address, timeout=20) for _ in range(16)]
        for connection in connections:
            connection.sendall(post(body))
        wait_until_read(server, len(connections))
        server.process.send_signal(signal.SIGTERM)
        answers = pool.map(read_all, connections)
        wait_until_refused(server)
        assert server.process.poll() is None  # still at work
        for answer in answers:
            head, _, content = answer.partition(b"\r\n\r\n")
            assert b" 200 " in head and json.loads(content) == {"result": expected}
        assert server.process.wait(5) == 0
        for connection in connections:
            connection.close()


def test_sigterm_closes_idle_connections_at_once(lab_index):
    with Serving(lab_index.path) as server, httpx.Client(trust_env=False) as client:
        assert client.get(f"{server.url}/health").status_code == 200
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0 and time.monotonic() - started < 3


def test_start_up_line_and_a_taken_port(lab_index):
    command = [sys.executable, "-m", "aslfast", "index", "serve", str(lab_index.path), "--port"]
    with subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline().strip()
            assert line.startswith(f"serving {lab_index.path} ({len(lab_index)} passages) at http://127.0.0.1:")
            port = line.rpartition(":")[2]
            taken = subprocess.run([*command, port], capture_output=True, text=True)
            assert taken.returncode == 2 and taken.stdout == ""
            assert taken.stderr.startswith(f"aslfast: error: 127.0.0.1 port {port}: Address already in use; choose")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0 and process.stderr.read() == ""


def test_only_loopback_goes_without_a_warning():
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost") and is_loopback("127.3.2.1")
    assert not is_loopback("0.0.0.0") and not is_loopback("::") and not is_loopback("10.0.0.1")
    with pytest.raises(UserError, match="choose another --port"):
        open_port("256.0.0.1", 0)


def test_many_clients_at_once(served, lab_index):
    expected = {k: [[d for d, _ in row] for row in documents(lab_index, QUERIES, k)] for k in range(1, 9)}
    wrong = []

    def client(number):
        with httpx.Client(trust_env=False) as session:
            for turn in range(10):
                k, n = 1 + (number + turn) % 8, 1 + turn % 4
                body = {"queries": QUERIES[:n], "topk": k}
                answer = session.post(f"{served.url}/retrieve", json=body)
                if answer.status_code != 200 or answer.json()["result"] != expected[k][:n]:
                    wrong.append((number, turn, answer.status_code))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_index_imports_without_the_server_or_torch():
    code = "import sys, aslfast.index; print(*sorted({'uvicorn', 'starlette', 'httpx', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
