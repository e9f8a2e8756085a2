"""A retrieval server in a process of its own, on a free port of this machine, for the time of a test."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import httpx

SERVE = """
import json, sys
from pathlib import Path
from aslfast.retrieval.protocol import ServerLimits
from aslfast.retrieval.server import ServerOptions, serve
folder, port, limits = sys.argv[1:]
serve(Path(folder), ServerOptions(port=int(port), threads=1, as_json=True, limits=ServerLimits(**json.loads(limits))))
"""


class Serving:
    """A server in a process of its own. `limits` are fields of ServerLimits."""

    def __init__(self, folder: Path, port: int = 0, **limits) -> None:
        command = [sys.executable, "-c", SERVE, str(folder), str(port), json.dumps(limits)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = json.loads(self.process.stdout.readline())["url"]
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def retrieve(server, **body):
    return httpx.post(f"{server.url}/retrieve", json=body, trust_env=False)


def say(server, text, wait_s=3.0):
    """Send raw bytes; return what the server answers until it closes the connection."""
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
