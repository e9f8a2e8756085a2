"""Lists and objects that a table, or a Parquet column of strings, holds as text: in JSON, Python's or numpy's notation.

pandas writes a list to CSV as "['Paris', 'City of Paris']", an array as "['Paris' 'City of Paris']" and an array within
an object as "{'text': array(['Paris'], dtype=object)}".
"""

from __future__ import annotations

import ast
import json
import re
import warnings

BRACKETS = ("[]", "{}", "()")
CONSTANTS = {"nan": "None", "null": "None", "true": "True", "false": "False"}
TOKEN = re.compile(
    r"""(?P<item>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d[\w.+-]*)(?P<next>\s+(?=['"\d-]))?"""
    r"""|(?P<array>\barray\(|,\s*dtype=[^)]*\)|(?<=\])\))"""
    r"""|\b(?P<constant>nan|null|true|false)\b""",
    re.DOTALL,
)


def spelled(value: object) -> object:
    """Return the list or object that a text spells; anything else is returned as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] + text[-1:] not in BRACKETS:
        return value
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        read = _python(text)
    return read if isinstance(read, (list, dict)) else value


def looks_like_list(text: str) -> bool:
    """Return whether a text, which spells no list, begins as one: it was cut off."""
    return re.match(r"\s*\[\s*['\"]", text) is not None


def _python(text: str) -> object:
    """Return what Python's or numpy's notation stands for, tuples and sets of texts as lists; None where neither."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape in a string
            read = ast.literal_eval(TOKEN.sub(_as_python, text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    if isinstance(read, (tuple, set)):  # "(1, 2)" is an answer as it stands
        return list(read) if all(isinstance(item, str) for item in read) else None
    return read


def _as_python(token: re.Match[str]) -> str:
    """Return a token with the comma that numpy leaves out, without its `array(...)`, constants by Python's names."""
    if token["item"]:
        return token["item"] + ("," if token["next"] else "")
    return CONSTANTS.get(token["constant"] or "", "")
