"""Notebooks as pages of the site: their texts, their code and the outputs that are kept in them."""

from __future__ import annotations

import json
import re
from typing import Any

COLOUR = re.compile("\x1b\\[[0-9;]*m")  # of a terminal; Jupyter shows them, a page does not


def notebook_text(notebook: str) -> str:
    """Return the Markdown of a notebook."""
    return "\n\n".join(cell_text(cell) for cell in json.loads(notebook)["cells"])


def cell_text(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *map(output_text, cell["outputs"])])


def output_text(output: dict[str, Any]) -> str:
    """Return what a cell printed, or the picture that it drew."""
    if "text" in output:
        return f"```text\n{COLOUR.sub('', ''.join(output['text']))}```"
    return f'<img alt="what this code draws" src="data:image/png;base64,{output["data"]["image/png"].strip()}">'
