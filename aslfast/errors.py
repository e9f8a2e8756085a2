"""What ends a command in one line: bad input, and a part that an install without extras lacks."""

from __future__ import annotations

SERVE = "'aslfast[serve]' to serve an index, 'aslfast[train]' to train"
TRAIN = "'aslfast[train]'"
EXTRAS = {  # of pyproject.toml: what brings a module that some command needs
    **dict.fromkeys(("uvicorn", "httptools", "starlette", "httpx", "orjson"), SERVE),
    **dict.fromkeys(("torch", "triton", "transformers", "peft", "safetensors"), TRAIN),
    **dict.fromkeys(("tokenizers", "matplotlib", "aslfast_kernels"), TRAIN),
}


def missing_part(error: ModuleNotFoundError) -> str:
    """Say what to install for a module that an extra brings; raise the error again if none does."""
    missing = (error.name or "").partition(".")[0]
    if missing not in EXTRAS:
        raise error
    return f"this command needs {missing}, which is not installed; pip install {EXTRAS[missing]}"


class UserError(Exception):
    """Bad input from outside (a file, a key, a path). The CLI prints it as one line and exits with code 2."""
