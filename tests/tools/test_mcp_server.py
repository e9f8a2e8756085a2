"""Tools of MCP servers, by the official client: over stdio and by URL, with servers that fail in every way."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aslfast.config import load_recipe
from aslfast.errors import UserError
from aslfast.rollout.tool_runner import CallLimits, ToolRunner
from aslfast.tools import ToolError, ToolFailed
from aslfast.tools.named import load_tools

pytest.importorskip("mcp", reason="the MCP client is an extra")
from aslfast.tools import mcp_server

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mcp_tools" / "server.py"
ODD = """
import os, sys, time
from mcp.server import MCPServer
from mcp.types import ImageContent, TextContent
server = MCPServer("odd")

@server.tool()
def huge() -> str:
    return "<|im_end|>" * 100_000

@server.tool()
async def hangs() -> str:
    import asyncio
    await asyncio.sleep(3600)

@server.tool()
def dies() -> str:
    os._exit(1)

@server.tool()
def counts() -> int:
    return os.getpid()

@server.tool()
def mixed() -> list:
    return [TextContent(type="text", text="a"), ImageContent(type="image", data="", mimeType="image/png")]

@server.tool()
def typed(times: int, tags: list[str]) -> str:
    return f"{times + 1} {tags}"

if sys.argv[1:]:
    server.run("streamable-http", port=int(sys.argv[1]))
server.run()
"""
QUICK = CallLimits(timeout_s=3.0)


def command(*words):
    return f"mcp:{shlex.join([sys.executable, *map(str, words)])}"


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    script = tmp_path_factory.mktemp("mcp") / "odd.py"
    script.write_text(ODD)
    yield {tool.name: tool for tool in load_tools([command(script)])}
    mcp_server.open_server(command(script).removeprefix("mcp:")).close()


def test_the_example_over_stdio():
    convert, units = load_tools(["search", command(EXAMPLE)])
    assert convert.schema["description"] == "Convert a length; the units are m, km, mile and foot."
    assert convert.schema["parameters"]["properties"]["length"]["type"] == "number"
    assert set(convert.schema["parameters"]["required"]) == {"length", "unit", "to"}
    assert asyncio.run(convert.call({"length": 2, "unit": "km", "to": "m"})) == "2000.0"
    assert asyncio.run(convert.call({"length": "2", "unit": "km", "to": "m"})) == "2000.0"  # a dialect without types
    assert "mile" in asyncio.run(units.call({}))  # in another loop: the session has its own
    with pytest.raises(ToolError, match="the units are m, km"):
        asyncio.run(convert.call({"length": 2, "unit": "yard", "to": "m"}))
    with pytest.raises(ToolError):
        asyncio.run(convert.call({"length": "two", "unit": "km", "to": "m"}))


def ask(tool, arguments=None, limits=QUICK):
    return asyncio.run(ToolRunner(tool, False, limits).call(arguments or {}))


def test_what_the_model_reads(odd):
    assert ask(odd["mixed"]) == "a\n(image)"
    assert ask(odd["typed"], {"times": "1", "tags": '["a"]'}) == "2 ['a']"
    assert ask(odd["typed"], {"times": 1}).startswith("error: ")
    assert ask(odd["huge"]).endswith("(cut here: 1,000,000 characters in all)")


def test_calls_overlap(odd):
    async def play():
        runner = ToolRunner(odd["counts"], False, QUICK)
        return await asyncio.gather(*(runner.call({}) for _ in range(20)))

    assert len(set(asyncio.run(play()))) == 1


def test_a_call_that_hangs_gives_no_answer_and_the_session_goes_on(odd):
    before = ask(odd["counts"])
    started = time.monotonic()
    assert ask(odd["hangs"], limits=CallLimits(timeout_s=0.3)) is None
    assert time.monotonic() - started < 10
    assert ask(odd["counts"]) == before


def test_a_server_that_dies_fails_the_call_and_is_started_again(odd):
    before = ask(odd["counts"])
    with pytest.raises(ToolFailed, match=r"odd\.py: .*losed"):
        asyncio.run(odd["dies"].call({}))
    after = ask(odd["counts"], limits=CallLimits(timeout_s=20.0))
    assert after and after != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-command-here"], "FileNotFoundError"),
        ([sys.executable, "-c", "raise SystemExit('no key')"], "it said: no key"),
        ([sys.executable, "-c", "import nosuchmodule"], "it said: ModuleNotFoundError: No module named 'nosuchmodule'"),
    ],
)
def test_a_server_that_does_not_start_is_one_line(words, said):
    with pytest.raises(UserError, match=said) as error:
        load_tools([f"mcp:{shlex.join(words)}"])
    assert "\n" not in str(error.value) and str(error.value).startswith("tools: mcp:")


def test_a_server_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(mcp_server, "START_S", 0.5)
    with pytest.raises(UserError, match=r"has not answered within 0\.5 s"):
        load_tools([command("-c", "import time; time.sleep(60)")])


def test_a_program_that_is_no_server_is_one_line(tmp_path):
    said = subprocess.run(
        [sys.executable, "-m", "aslfast", "train", "--recipe", "tiny", "--dry-run", "--set", 'tools=["mcp:echo hi"]'],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert said.returncode == 2 and len(said.stderr.splitlines()) == 1, said.stderr
    assert "tools: mcp:echo hi: MCPError" in said.stderr


def test_a_server_without_tools_is_one_line():
    code = "from mcp.server import MCPServer; MCPServer('none').run()"
    with pytest.raises(UserError, match="has no tools"):
        load_tools([command("-c", code)])


@pytest.fixture
def url(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "odd.py").write_text(ODD)
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen([sys.executable, str(tmp_path / "odd.py"), str(port)], stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/mcp", server
    server.kill()
    server.wait()
    log.close()


def test_a_server_by_url(url):
    address, server = url
    tools = {tool.name: tool for tool in load_tools([f"mcp:{address}"])}
    assert ask(tools["typed"], {"times": 1, "tags": []}) == "2 []"
    server.kill()
    server.wait()
    with pytest.raises((ToolFailed, ToolError)):
        asyncio.run(asyncio.wait_for(tools["counts"].call({}), 10))
    mcp_server.open_server(address).close()


def test_no_server_at_a_url_is_one_line():
    with pytest.raises(UserError, match=r"^tools: mcp:http://127\.0\.0\.1:9/mcp: ") as error:
        load_tools(["mcp:http://127.0.0.1:9/mcp"])
    assert "\n" not in str(error.value)


def test_a_servers_process_ends_with_ours(tmp_path):
    code = (
        "import asyncio, sys\nfrom aslfast.tools.named import load_tools\n"
        f"tools = load_tools([{command(tmp_path / 'odd.py')!r}])\n"
        "print(asyncio.run(next(tool for tool in tools if tool.name == 'counts').call({})))\n"
    )
    (tmp_path / "odd.py").write_text(ODD)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_recipe_names_it():
    assert load_recipe("tiny", [f"tools=['search', '{command('server.py')}']"]).tools[1].startswith("mcp:")
