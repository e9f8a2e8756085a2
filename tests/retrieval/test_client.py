"""The tool over HTTP: the same results as from the folder, retries where they help, and an end to them."""

import asyncio
import dataclasses
import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aslfast.config import load_recipe
from aslfast.data.corpus import Passage
from aslfast.data.qa_dataset import Question, write_questions
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.tool_calls import search_call
from aslfast.retrieval.client import RemoteIndex
from aslfast.retrieval.retriever import open_index, retrieve
from aslfast.rollout.multi_turn import Rollout
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.search_tool import Observation, SearchTool
from aslfast.trainer.build import build_search_tool
from aslfast.trainer.datasets import file_datasets
from tests.support.index.retrieval_server import Serving
from tests.support.scripted_sampler import ScriptedSampler

QUERIES = ["Raze Lankim author", "genre epic", "zzz", "half \ud800 a pair", "setting of Tepu Nundin", ""]


@pytest.fixture(scope="module")
def served(lab_index):
    with Serving(lab_index.path) as server:
        yield server


class Scripted(BaseHTTPRequestHandler):
    """A server of another make: it sends `answers` (status, headers, body) in turn, then the last one for ever."""

    protocol_version = "HTTP/1.1"
    answers: list
    seen: list

    def do_POST(self):
        self.seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.play()

    def do_GET(self):
        self.send_error(404)

    def play(self):
        status, headers, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def playing(*answers):
    handler = type("Playing", (Scripted,), {"answers": list(answers), "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.seen
    finally:
        server.shutdown()
        server.server_close()


def result(*documents):
    return {"result": [[{"document": document, "score": 1.5} for document in documents]]}


def error_of(url, queries=("x",), **settings):
    """Return the message, and after how many seconds it came."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        RemoteIndex(url, **settings).retrieve(list(queries), 3)
    return str(caught.value), time.monotonic() - started


# --- the same as from the folder -------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["{}", "{}/", "{}/retrieve"])
def test_passages_over_http_are_those_of_the_folder(served, lab_index, url):
    remote = open_index(url.format(served.url))
    for k in (1, 3, 100):
        assert retrieve(remote, QUERIES, k) == retrieve(lab_index, QUERIES, k)
    assert retrieve(remote, [], 3) == []


def test_the_tool_says_the_same(served, lab_index):
    calls = [search_call(*QUERIES[i : i + 3]) for i in range(4)] + [search_call("zzz")]
    near, far = SearchTool(lab_index, 3, 80), SearchTool(open_index(served.url), 3, 80)
    assert near.answer(calls) == far.answer(calls)
    assert far.answer(calls[-1:]) == [Observation("nothing found")]


def test_a_passage_found_twice_is_shown_once(lab_index):
    once, twice = (SearchTool(lab_index).answer([search_call(*["genre epic"] * n)]) for n in (1, 2))
    assert once == twice


def test_batches_are_split_to_the_servers_limits(lab_index):
    queries = [f"genre epic {'word ' * (n % 5)}" for n in range(50)]
    with Serving(lab_index.path, queries=7, hits=12, body_bytes=200) as server:
        assert open_index(server.url).retrieve(queries, 3) == retrieve(lab_index, queries, 3)


def test_one_client_serves_many_threads_and_a_forked_process(served, lab_index):
    remote, expected = open_index(served.url), retrieve(lab_index, QUERIES, 3)
    wrong = []
    threads = [
        threading.Thread(target=lambda: wrong.extend([1] * (remote.retrieve(QUERIES, 3) != expected))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if child == 0:
        os._exit(int(remote.retrieve(QUERIES, 3) != expected))
    assert os.waitpid(child, 0)[1] == 0 and wrong == []
    assert remote.retrieve(QUERIES, 3) == expected


# --- a run -----------------------------------------------------------------------------------------------------


def tiny(tmp_path, index):
    (tmp_path / "topics.txt").write_text("Raze Lankim\n")
    write_questions(tmp_path / "q.parquet", [Question("1", "Who is the author of Raze Lankim?", ("Zulo Nirbir",), 1)])
    places = {"index": index, "topics": tmp_path / "topics.txt", "eval_questions": tmp_path / "q.parquet"}
    return load_recipe("tiny", ["data.lab=false", *(f'data.{key}="{value}"' for key, value in places.items())])


def test_a_trajectory_of_the_tiny_recipe_is_the_same_by_path_and_by_url(served, lab_index, tmp_path, tokenizer):
    def trajectory(index):
        config = tiny(tmp_path, index)
        environment = file_datasets(config)
        assert environment.eval_index is environment.index
        text = '<think>x</think><tool_call>{"name": "search", "arguments": {"query": "Raze Lankim author"}}</tool_call>'
        sampler = ScriptedSampler(tokenizer, [text, "<think>y</think><answer>Zulo Nirbir</answer>"])
        tool = build_search_tool(config, environment.index)
        rollout = Rollout(sampler, tool, Chat(tokenizer), Limits(3, 200, 4000), 1.0)
        task = PromptBuilder("compact").policy("t", Question("t", "Who?"))
        return asyncio.run(rollout.run(task, 0, seed=1, adapter="policy"))

    near, far = trajectory(lab_index.path), trajectory(served.url)
    assert near == far and near.tool_calls == 1 and near.output == "Zulo Nirbir"


def test_a_run_without_its_server_is_an_error_before_it_starts(tmp_path):
    config = tiny(tmp_path, "http://127.0.0.1:9")
    config = dataclasses.replace(config, tool=dataclasses.replace(config.tool, retries=1))
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/retrieve: no answer in 2 attempts .*aslfast index serve"):
        file_datasets(config)


# --- other servers ---------------------------------------------------------------------------------------------


SHAPES = {
    "an id that is a number": ({"id": 7, "contents": '"T"\ntext'}, Passage("7", '"T"\ntext')),
    "no id": ({"contents": '"T"\ntext'}, Passage("", '"T"\ntext')),
    "title and text": ({"title": "T", "text": "text"}, Passage("", '"T"\ntext')),
    "more fields": ({"id": "a", "contents": "c", "url": "u", "title": "T", "text": "t"}, Passage("a", "c")),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_documents_of_other_servers(shape):
    document, passage = SHAPES[shape]
    with playing((200, {}, result(document))) as (url, seen):
        assert open_index(url).retrieve(["x"], 3) == [[passage]]  # without /health, as Search-R1's server
    assert seen[-1] == {"queries": ["x"], "topk": 3, "return_scores": True}
    with playing((200, {}, {"result": [[document, document]]})) as (url, _):
        assert RemoteIndex(url).retrieve(["x"], 3) == [[passage] * 2]
        assert SearchTool(RemoteIndex(url)).answer([search_call("x")]) == [Observation(passage.contents, (passage.id,))]


@pytest.mark.parametrize(
    "body", [b"<html>", [], {}, {"result": {}}, {"result": []}, {"result": [["a"]]}, {"result": [[{"id": 1}]]}]
)
def test_answers_that_are_none(body):
    with playing((200, {}, body)) as (url, seen):
        message, _ = error_of(url)
        assert url in message and "not the answer of a retrieval server" in message and len(seen) == 1


def test_a_refusal_is_not_tried_again(served):
    with playing((422, {}, {"detail": "topk too large"})) as (url, seen):
        message, _ = error_of(url)
        assert "refused with status 422: topk too large" in message and len(seen) == 1
    with pytest.raises(UserError, match="limits are 1 to 100"):
        RemoteIndex(served.url).retrieve(["x"], 101)
    message, _ = error_of(served.url, ["x" * 40_000])
    assert "40000 characters, the limit is 32768" in message


def test_what_passes_is_tried_again_after_as_long_as_the_server_asks():
    good, busy = result({"id": "a", "contents": "c"}), {"error": "busy"}
    with playing((503, {"Retry-After": "1"}, busy), (500, {}, b"oops"), (200, {}, good)) as (url, seen):
        started = time.monotonic()
        assert RemoteIndex(url).retrieve(["x"], 3) == [[Passage("a", "c")]]
        assert 1.2 < time.monotonic() - started < 10 and len(seen) == 3
    with playing((503, {}, busy)) as (url, seen):
        message, seconds = error_of(url, retries=2)
        assert "no answer in 3 attempts" in message and "status 503: busy" in message
        assert len(seen) == 3 and 0.5 < seconds < 10


def test_an_answer_that_is_cut_or_trickles_ends_in_time():
    class Trickling(Scripted):
        def play(self):
            self.send_response(200)
            self.end_headers()
            for _ in range(50):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)

    Trickling.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickling)
    server.handle_error = lambda *_: None  # the client goes away: that is the point
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    message, seconds = error_of(f"http://127.0.0.1:{server.server_port}", timeout_s=0.5, retries=0)
    server.shutdown()
    assert "longer than 0.5 s" in message and seconds < 4
    with playing((200, {"Content-Length": "500"}, b'{"result"')) as (url, _):
        message, seconds = error_of(url, timeout_s=0.3, retries=0)
        assert "no answer in 1 attempts" in message and seconds < 4


@pytest.mark.parametrize("url", ["http://", "http://h:port", "http://h/?a=b", "http://[::1"])
def test_urls_that_are_none(url):
    with pytest.raises(UserError, match="write it as http://host:port"):
        open_index(url)


# --- a server that dies ----------------------------------------------------------------------------------------


def asking(remote, until):
    """Send requests without pause until an error; return it."""
    while time.monotonic() < until:
        try:
            remote.retrieve(QUERIES * 50, 10)
        except UserError as error:
            return str(error)
    return "no error"


def test_kill_in_the_middle_is_a_clear_error_in_time(lab_index):
    with Serving(lab_index.path) as server:
        remote, errors = RemoteIndex(server.url, retries=2), []
        until = time.monotonic() + 10
        threads = [threading.Thread(target=lambda: errors.append(asking(remote, until))) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        server.process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        for thread in threads:
            thread.join()
        assert time.monotonic() - killed < 8
        assert len(errors) == 4 and all(f"{server.url}/retrieve: no answer in 3 attempts" in e for e in errors)


def test_a_server_that_comes_back_is_found_again(lab_index):
    with Serving(lab_index.path) as server:
        remote = RemoteIndex(server.url)
        expected = remote.retrieve(QUERIES, 3)
    with Serving(lab_index.path, port=server.address[1]):
        assert remote.retrieve(QUERIES, 3) == expected


def test_a_folder_is_opened_as_ever(lab_index):
    assert isinstance(open_index(str(lab_index.path)), BM25Index)
