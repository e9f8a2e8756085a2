"""Finding a stop text in tokens as they are sampled, without decoding the output again at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an engine's processes import this module before transformers may be imported
    from transformers import PreTrainedTokenizerBase

PARTIAL = "\ufffd"  # what a decoder writes for an unfinished UTF-8 character
BYTES_PER_CHARACTER = 4


class TokenPieces:
    """The text of each token id inside a text, kept once computed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}
        anchor = tokenizer.encode("a", add_special_tokens=False)
        self._anchor, self._anchor_text = anchor, self.decode(anchor)

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of these tokens, special ones included."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)  # a list of texts only for a list of sequences

    def __getitem__(self, token_id: int) -> str:
        piece = self._pieces.get(token_id)
        if piece is None:  # decoded after an anchor: some tokenizers drop the space that begins a text
            piece = self.decode([*self._anchor, token_id])[len(self._anchor_text) :]
            self._pieces[token_id] = piece
        return piece


class StopFinder:
    """A detector of stop texts, as soon as a sampled token completes one."""

    def __init__(self, stop: tuple[str, ...], pieces: TokenPieces) -> None:
        self._stop = tuple(text for text in stop if text)
        self._reach = max(map(len, self._stop), default=0)
        self.window = BYTES_PER_CHARACTER * self._reach + 1  # last tokens that `found` reads
        self._pieces = pieces
        self._tail = ""

    def found(self, token_ids: list[int]) -> bool:
        """Return whether the last of the sampled token_ids completes a stop text. Call it after every token."""
        if not self._stop:
            return False
        tail = self._tail + self._pieces[token_ids[-1]]
        if PARTIAL in tail:  # a character spread over tokens: only decoding them together gives it
            tail = self._pieces.decode(token_ids[-self.window :])
        self._tail = tail[-self._reach :]
        return any(text in tail for text in self._stop)
