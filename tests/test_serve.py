"""The retrieval server over real sockets: answers, limits, hostile clients, signals. The client: test_remote.py."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from serving import Serving

from aslfast.errors import UserError
from aslfast.serve import Retrieval
from aslfast.serve_batch import Batcher
from aslfast.serve_request import Limits
from aslfast.serve_run import is_loopback, open_port

QUERIES = ["Raze Lankim author", "genre epic", "zzz", "setting of Tepu Nundin"]


@pytest.fixture(scope="module")
def served(lab_index):
    with Serving(lab_index.path) as server:
        yield server


@pytest.fixture(scope="module")
def small(lab_index):
    """A server with small limits."""
    limits = {"queries": 4, "query_chars": 100, "topk": 5, "hits": 12, "body_bytes": 2000, "connections": 4}
    timeouts = {"header_timeout_s": 0.3, "body_timeout_s": 0.3}
    with Serving(lab_index.path, **limits, **timeouts) as server:
        yield server


def retrieve(server, **body):
    return httpx.post(f"{server.url}/retrieve", json=body, trust_env=False)


def documents(index, queries, k):
    """What the answer must hold: [(document, score), ...] for each query, from the index itself."""
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


def test_half_a_surrogate_pair_is_a_query(served):
    answer = httpx.post(f"{served.url}/retrieve", content=b'{"queries": ["\\ud800 genre epic"]}', trust_env=False)
    assert answer.json() == retrieve(served, queries=["? genre epic"]).json()


def test_health(served, lab_index):
    health = httpx.get(f"{served.url}/health", trust_env=False).json()
    assert (health["status"], health["passages"]) == ("ok", len(lab_index)) and health["generation"] >= 0
    assert health["limits"]["queries"] == Limits().queries


REFUSED = {
    b"": (400, "not JSON"),
    b"{": (400, "not JSON"),
    b'"\xff"': (400, "not JSON"),
    b"[" * 500: (400, "not JSON"),
    b"[1]": (422, "the body is a list"),
    b"{}": (422, "'queries' is missing"),
    b'{"queries": "x"}': (422, "'queries' is a string"),
    b'{"queries": null}': (422, "'queries' is null"),
    b'{"queries": ["x", 1]}': (422, "queries[1] is a number"),
    b'{"queries": ["x"], "top_k": 3}': (422, "unknown field 'top_k'; did you mean 'topk'?"),
    b'{"queries": ["x"], "topk": 0}': (422, "limits are 1 to 5"),
    b'{"queries": ["x"], "topk": 6}': (422, "limits are 1 to 5"),
    b'{"queries": ["x"], "topk": true}': (422, "'topk' is a truth value"),
    b'{"queries": ["x"], "topk": 1e400}': (422, "'topk' is a number"),
    b'{"queries": ["x"], "return_scores": 1}': (422, "'return_scores' is a number"),
    b'{"queries": ["x", "x", "x", "x", "x"]}': (422, "limit is 4"),
    b'{"queries": ["x", "x", "x"], "topk": 5}': (422, "3 x 5 = 15, the limit is 12"),
    b'{"queries": ["' + b"x" * 101 + b'"]}': (422, "101 characters, the limit is 100"),
    b" " * 2001: (413, "larger than 2000 bytes"),
}


@pytest.mark.parametrize("body", REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused_and_why(small, body):
    status, words = REFUSED[body]
    answer = httpx.post(f"{small.url}/retrieve", content=body, trust_env=False)
    assert answer.status_code == status and words in answer.json()["error"]
    assert len(answer.json()["error"]) < 300 and "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    "method, path, status", [("GET", "/", 404), ("POST", "/retriev", 404), ("PUT", "/health", 405)]
)
def test_wrong_paths_and_methods(small, method, path, status):
    answer = httpx.request(method, f"{small.url}{path}", trust_env=False)
    assert answer.status_code == status and "use POST /retrieve or GET /health" in answer.json()["error"]


def test_a_query_of_10_mb(served):
    answer = retrieve(served, queries=["x" * 10_000_000])
    assert answer.status_code == 413 and str(Limits().body_bytes) in answer.json()["error"]


def test_a_body_without_length_is_counted_as_it_comes(served):
    parts = [b'{"queries": [', b'"genre epic"', b"]}"]
    assert httpx.post(f"{served.url}/retrieve", content=iter(parts), trust_env=False).status_code == 200
    endless = (b" " * 2**20 for _ in range(12))
    assert httpx.post(f"{served.url}/retrieve", content=endless, trust_env=False).status_code == 413


# --- by hand, over a socket ------------------------------------------------------------------------------------


def say(server, text, wait_s=3.0):
    """What the server answers until it closes the connection."""
    with socket.create_connection(server.address, timeout=wait_s) as connection:
        connection.sendall(text)
        return read_all(connection)


def read_all(connection):
    answer = b""
    try:
        while part := connection.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


def post(body, length=None, more=b""):
    length = len(body) if length is None else length
    return b"POST /retrieve HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (more, length, body)


def test_a_false_length(small):
    too_long = say(small, post(b'{"queries": []}', 500))
    assert b" 408 " in too_long and b"0.3 s" in too_long and b"connection: close" in too_long
    too_short = say(small, post(b'{"queries": []}', 3))  # then the rest is no request
    assert too_short.startswith(b"HTTP/1.1 400")
    assert b" 400 " in say(small, b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n")
    assert b" 413 " in say(small, post(b"", 10**12, b"Expect: 100-continue\r\n"))


@pytest.mark.parametrize("text", [b"", b"POST /retrieve HTTP/1.1\r\nHost:", b"\r\n\r\n"], ids=["none", "half", "blank"])
def test_headers_that_never_end(small, text):
    started = time.monotonic()
    assert say(small, text) == b""
    assert 0.2 < time.monotonic() - started < 2


def test_endless_headers(small):
    assert b" 200 " not in say(small, b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n")
    assert b" 400 " in say(small, b"\x16\x03\x01 this is not HTTP\r\n\r\n")


def test_too_many_connections_get_503_and_leave_the_others_alone(small):
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{small.url}/health").status_code == 200
        idle = [socket.create_connection(small.address) for _ in range(3)]
        over = say(small, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 503 " in over and b"retry-after: 1" in over and b"too many open connections" in over
        assert client.get(f"{small.url}/health").status_code == 200
        for connection in idle:
            connection.close()
    time.sleep(0.1)
    assert httpx.get(f"{small.url}/health", trust_env=False).status_code == 200


def test_a_client_that_does_not_read_is_dropped(lab_index):
    body = json.dumps({"queries": QUERIES[:2] * 2000, "topk": 16}).encode()
    with Serving(lab_index.path, stalled_timeout_s=0.3) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(server.address)
        connection.sendall(post(body))
        time.sleep(1.5)
        head, _, content = read_all(connection).partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert b" 200 " in head and len(content) < length
        assert httpx.get(f"{server.url}/health", trust_env=False).json()["status"] == "ok"


# --- in the process --------------------------------------------------------------------------------------------


def test_batches_of_several_depths_answer_as_single_searches(lab_index):
    class Counting:
        """The index, counting its searches."""

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
        retrieval = Retrieval(Damaged(), Limits(), threads=1)
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
        retrieval = Retrieval(lab_index, Limits(requests=2), threads=1)
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


def test_sigterm_loses_no_request_under_way_and_refuses_new_ones(lab_index):
    body = json.dumps({"queries": QUERIES * 400, "topk": 10}).encode()
    expected = [[d for d, _ in row] for row in documents(lab_index, QUERIES, 10)] * 400
    with Serving(lab_index.path) as server, ThreadPoolExecutor(16) as pool:
        connections = [socket.create_connection(server.address, timeout=20) for _ in range(16)]
        for connection in connections:
            connection.sendall(post(body))
        time.sleep(0.1)
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
