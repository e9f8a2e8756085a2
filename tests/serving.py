"""A retrieval server in a process of its own, on a free port of this machine, for as long as a test needs it."""

import json
import subprocess
import sys
from pathlib import Path

SERVE = """
import json, sys
from pathlib import Path
from aslfast.serve_request import Limits
from aslfast.serve_run import serve
folder, port, limits = sys.argv[1:]
serve(Path(folder), "127.0.0.1", int(port), 1, False, True, Limits(**json.loads(limits)))
"""


class Serving:
    """`limits` are fields of serve_request.Limits."""

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
