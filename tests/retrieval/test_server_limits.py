"""What the retrieval server refuses, and how it survives hostile clients, over real sockets."""

import json
import socket
import time

import httpx
import pytest

from aslfast.retrieval.protocol import ServerLimits
from tests.support.index.retrieval_server import Serving, post, read_all, retrieve, say

QUERIES = ["Raze Lankim author", "genre epic"]


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
    b'{"queries": ["x"], "topk": "many"}': (422, "'topk' is a string"),
    b'{"queries": ["x"], "topk": "6"}': (422, "limits are 1 to 5"),
    b'{"queries": ["x"], "topk": "' + b"9" * 30 + b'"}': (422, "'topk' is a string"),
    b'{"queries": ["x"], "topk": 1.5}': (422, "'topk' is a number"),
    b'{"queries": ["x"], "topk": 0}': (422, "limits are 1 to 5"),
    b'{"queries": ["x"], "topk": 6}': (422, "limits are 1 to 5"),
    b'{"queries": ["x"], "topk": true}': (422, "'topk' is a boolean"),
    b'{"queries": ["x"], "topk": 1e400}': (422, "'topk' is a number"),
    b'{"queries": ["x"], "return_scores": 2}': (422, "'return_scores' is a number"),
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
    assert answer.status_code == 413 and str(ServerLimits().body_bytes) in answer.json()["error"]


def test_a_body_without_length_is_counted_as_it_comes(served):
    parts = [b'{"queries": [', b'"genre epic"', b"]}"]
    assert httpx.post(f"{served.url}/retrieve", content=iter(parts), trust_env=False).status_code == 200
    endless = (b" " * 2**20 for _ in range(12))
    assert httpx.post(f"{served.url}/retrieve", content=endless, trust_env=False).status_code == 413


# --- by hand, over a socket ------------------------------------------------------------------------------------


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
    assert 0.2 < time.monotonic() - started < 10


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
    until = time.monotonic() + 10
    while httpx.get(f"{small.url}/health", trust_env=False).status_code != 200:
        assert time.monotonic() < until


def test_a_client_that_does_not_read_is_dropped(lab_index):
    body = json.dumps({"queries": QUERIES * 2000, "topk": 16}).encode()
    with Serving(lab_index.path, stalled_timeout_s=0.3) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(server.address)
        connection.sendall(post(body))
        time.sleep(1.5)
        head, _, content = read_all(connection).partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert b" 200 " in head and len(content) < length
        assert httpx.get(f"{server.url}/health", trust_env=False).json()["status"] == "ok"
