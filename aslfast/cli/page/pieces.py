"""The text of each sampled token, so that a page can colour it; needs the run's tokenizer.json, no model library."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer

from aslfast.config.toml import parse
from aslfast.errors import UserError
from aslfast.files.shipped import LAB_BASES

PART_OF_A_LETTER, MOST_OF_A_LETTER = "\N{REPLACEMENT CHARACTER}", 8


class TokenText:
    """Texts of token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._alone: dict[int, str] = {}

    @classmethod
    def of_run(cls, run: Path) -> TokenText | None:
        """Return the texts by the tokenizer that the run's config.toml names; None where it is not here."""
        try:
            model = parse((run / "config.toml").read_text(encoding="utf-8"))["model"]
            path = model.get("path") if isinstance(model, dict) else None
            folder = LAB_BASES.get(str(path), Path(str(path)))
            return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))
        except (UserError, OSError, KeyError, ValueError, UnicodeDecodeError):
            return None
        except Exception as error:  # the tokenizers library raises bare Exceptions
            if type(error) is not Exception:
                raise
            return None

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return a text for each id; together they are the text of all."""
        whole, alone = self._decoded(ids), [self._piece(i) for i in ids]
        if "".join(alone) == whole:
            return alone
        found = self._in_context(ids)
        return found if "".join(found) == whole else [whole, *[""] * (len(ids) - 1)][: len(ids)]

    def _in_context(self, ids: Sequence[int]) -> list[str]:
        """Return each id's text behind the one before it; of ids that are one letter together the last has it."""
        found: list[str] = []
        for end in range(1, len(ids) + 1):
            start, before = len(found), ids[max(0, len(found) - 1) : len(found)]
            text = self._decoded([*before, *ids[start:end]])[len(self._decoded(before)) :]
            if not text.endswith(PART_OF_A_LETTER) or end - start >= MOST_OF_A_LETTER or end == len(ids):
                found += [*[""] * (end - start - 1), text]
        return found

    def _piece(self, token: int) -> str:
        if token not in self._alone:
            self._alone[token] = self._decoded([token])
        return self._alone[token]

    def _decoded(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def sampled_runs(loss_mask: Sequence[int]) -> list[tuple[int, int]]:
    """Return the spans [start, end) of the token stream that the model sampled, one a turn."""
    spans, position = [], 0
    for sampled, tokens in groupby(loss_mask):
        length = sum(1 for _ in tokens)
        if sampled:
            spans.append((position, position + length))
        position += length
    return spans
