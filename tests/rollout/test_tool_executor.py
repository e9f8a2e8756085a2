"""Calls of many trajectories: gathered into batches, answered, or failed."""

import asyncio
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import pytest

from aslfast.core import Question, StopReason
from aslfast.errors import UserError
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.tool_calls import search_call
from aslfast.retrieval.client import RemoteIndex
from aslfast.rollout.multi_turn import Rollout
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.search_tool import Observation, SearchTool
from aslfast.rollout.tool_executor import WORKERS, ToolExecutor
from tests.support.scripted_sampler import ScriptedSampler

QUERIES = ["birthplace of Mira", "river in Oslo", "zzz", "Aker short"]
CALLS = [search_call(query) for query in QUERIES]


@contextmanager
def retrieval(behave):
    """Run a server that answers with `behave(queries)`, one text per query; None closes the connection."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            queries = orjson.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
            seen.append(queries)
            texts = behave(queries)
            if texts is None:
                self.close_connection = True
                return
            body = orjson.dumps({"result": [[{"document": {"id": "x", "contents": text}}] for text in texts]})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def executor_at(url, timeout_s=1.0, retries=0, deadline_s=5.0, give_up_after_s=60.0):
    return ToolExecutor(SearchTool(RemoteIndex(url, timeout_s, retries)), True, deadline_s, give_up_after_s)


def one(text):
    """The observation of the server's one passage."""
    return Observation(text, ("x",))


async def ask(executor, calls):
    return await asyncio.gather(*(executor.call(call) for call in calls))


@pytest.mark.parametrize("threaded", [False, True])
def test_every_call_gets_its_own_observation(index, threaded):
    tool = SearchTool(index, top_k=1)
    found = asyncio.run(ask(ToolExecutor(tool, threaded), CALLS * 100))
    assert found == tool.answer(CALLS) * 100 and len(set(found)) == 4


def test_calls_of_one_turn_of_the_loop_are_one_request():
    with retrieval(lambda queries: [f"about {query}" for query in queries]) as (url, seen):
        found = asyncio.run(ask(executor_at(url, timeout_s=5), CALLS))
    assert seen == [QUERIES] and found == [one(f"about {query}") for query in QUERIES]


def test_calls_gather_while_all_workers_are_busy():
    free = threading.Event()

    def behave(queries):
        free.wait(5)
        return queries

    async def play(executor):
        asked = []
        for i in range(3 * WORKERS):
            asked.append(asyncio.ensure_future(executor.call(search_call(f"q{i}"))))
            await asyncio.sleep(0.01)
        free.set()
        return await asyncio.gather(*asked)

    with retrieval(behave) as (url, seen):
        found = asyncio.run(play(executor_at(url, timeout_s=5)))
    assert found == [one(f"q{i}") for i in range(3 * WORKERS)]
    assert len(seen) == WORKERS + 1 and max(map(len, seen)) == 2 * WORKERS  # all that came meanwhile, in one request


def test_the_loop_goes_on_while_a_call_waits():
    async def play(executor):
        slow = asyncio.ensure_future(executor.call(CALLS[0]))
        turns = 0
        while not slow.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns, await slow

    with retrieval(lambda queries: [time.sleep(0.4) or query for query in queries]) as (url, _):
        turns, observation = asyncio.run(play(executor_at(url, timeout_s=3)))
    assert turns > 10 and observation == one(QUERIES[0])


def test_an_unanswered_call_ends_its_own_trajectory_alone(tokenizer):
    """One query blocks the server: its trajectory fails, a concurrent one does not."""

    def behave(queries):
        if "zzz" in queries:
            time.sleep(3)
        return queries

    def script(prompt, seed):
        query = "zzz" if "first" in prompt else "Oslo"
        return [
            f'<tool_call>{{"name": "search", "arguments": {{"query": "{query}"}}}}</tool_call>',
            "<answer>Aker</answer>",
        ]

    async def play(rollout):
        prompts = PromptBuilder("compact")
        first = asyncio.ensure_future(rollout.run(prompts.policy("a", Question("a", "first?")), 0, 1, None))
        await asyncio.sleep(0.05)  # a batch of its own
        return await asyncio.gather(first, rollout.run(prompts.policy("b", Question("b", "second?")), 0, 1, None))

    with retrieval(behave) as (url, seen):
        sampler = ScriptedSampler(tokenizer, script)
        rollout = Rollout(sampler, executor_at(url, 1.0, retries=1), Chat(tokenizer), Limits(3, 200, 4000), 1.0)
        failed, finished = asyncio.run(play(rollout))
    assert failed.stop is StopReason.TOOL_FAILED and failed.output is None
    assert [turn.kind for turn in failed.turns] == ["prompt", "sampled"]
    assert finished.stop is StopReason.FINISHED and finished.tool_calls == 1
    assert seen.count(["zzz"]) == 2 and len(sampler.released) == 2


def test_a_stuck_thread_is_abandoned_at_the_deadline():
    """The attempt's own timeout is longer than the deadline: the call ends in time, and its late answer is dropped."""

    async def play(executor):
        started = time.monotonic()
        failed = await executor.call(CALLS[0])
        seconds = time.monotonic() - started
        await asyncio.sleep(2.2)
        return failed, seconds, await executor.call(CALLS[1])

    with retrieval(lambda queries: [time.sleep(2.4 * (q == QUERIES[0])) or q for q in queries]) as (url, _):
        failed, seconds, after = asyncio.run(play(executor_at(url, timeout_s=5, deadline_s=0.3)))
    assert failed is None and seconds < 2 and after == one(QUERIES[1])


def test_a_tool_that_stopped_answering_ends_the_run():
    async def play(executor):
        failed = 0
        started = time.monotonic()
        try:
            while True:
                failed += await executor.call(CALLS[0]) is None
        except UserError as error:
            return failed, time.monotonic() - started, str(error)

    executor = executor_at("http://127.0.0.1:9", give_up_after_s=0.3)
    failed, seconds, message = asyncio.run(play(executor))
    assert failed >= 2 and 0.3 <= seconds < 10
    assert "has answered no call" in message and "http://127.0.0.1:9/retrieve: no answer in 1 attempts" in message


def test_a_success_resets_the_failures():
    """Failures, however many and long, do not end the run while others succeed between them."""
    failing = iter([True, True, False] * 4)

    async def play(executor):
        found = []
        for _ in range(12):
            found.append(await executor.call(CALLS[0]))
            await asyncio.sleep(0.02)
        return found

    with retrieval(lambda queries: None if next(failing) else queries) as (url, _):
        found = asyncio.run(play(executor_at(url, give_up_after_s=0.0)))
    assert found == [None, None, one(QUERIES[0])] * 4


def test_a_wrong_answer_ends_the_run():
    """An error that no retry can fix ends the run at once."""
    few = pytest.raises(UserError, match="not the answer of a retrieval server")
    with retrieval(lambda queries: queries[1:]) as (url, _), few:
        asyncio.run(ask(executor_at(url), CALLS))


def test_a_cancelled_caller_leaves_the_others_their_answers(index):
    async def play(executor):
        first, second = (asyncio.ensure_future(executor.call(call)) for call in CALLS[:2])
        await asyncio.sleep(0)
        first.cancel()
        return await second

    tool = SearchTool(index, top_k=1)
    for threaded in (False, True):
        assert asyncio.run(play(ToolExecutor(tool, threaded))) == tool.answer(CALLS[1:2])[0]
