"""Anchors of headings as GitHub makes them, so that one link works there and on the site."""

from __future__ import annotations

import re


def slug(text: str, separator: str = "-") -> str:
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", separator)
