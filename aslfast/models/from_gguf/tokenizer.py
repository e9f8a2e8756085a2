"""The tokenizer of a GGUF file, with the special tokens that its chat template really uses."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.integrations.ggml import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

from aslfast.errors import UserError
from aslfast.models.from_gguf.header import GgufHeader
from aslfast.prompts.rendering import SENTINEL

TOKENS = "tokenizer.ggml.tokens"
CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
ENDS = ("eos", "eot")  # the ids after which llama.cpp stops


def make_tokenizer(header: GgufHeader, model_type: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer. Its eos token ends an assistant's turn in the chat template; without a pad token, eos is
    that too.

    transformers' own reading takes the bos token for both, and would add a default one to the vocabulary of a file that
    names none. Raise UserError, and what transformers and tokenizers raise.
    """
    words = header.texts(TOKENS)
    if len(set(words)) < len(words):  # the tokenizers library would print a complaint of its own
        raise UserError(f"{header.place}: {TOKENS} holds {len(words) - len(set(words))} words twice; use a sound file")
    names = GGUF_TOKENIZER_MAPPING["tokenizer"].items()
    parts = {theirs: value for ours, theirs in names if (value := header.fields.get(f"tokenizer.{ours}")) is not None}
    fast, _ = convert_gguf_tokenizer(model_type, parts)
    control = _add_control_words(fast, header, words)
    special = {ours: words[id_] for ours, theirs in SPECIAL.items() if (id_ := _token_id(header, theirs)) is not None}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, **special, clean_up_tokenization_spaces=False,
        add_bos_token=bool(header.fields.get("tokenizer.ggml.add_bos_token", False)),
        model_max_length=header.number(f"{header.text('general.architecture')}.context_length"),
    )  # fmt: skip
    tokenizer.chat_template = header.text("tokenizer.chat_template")
    tokenizer.eos_token = end_of_turn(tokenizer, control) or tokenizer.eos_token
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if len(tokenizer) != len(words):
        what = f"{TOKENS} lacks {len(tokenizer) - len(words)} words that a tokenizer of {model_type} has"
        raise UserError(f"{header.place}: {what}; use a sound file")
    return tokenizer


def eos_ids(tokenizer: PreTrainedTokenizerFast, header: GgufHeader) -> list[int]:
    """Return the ids that end a text: the end of a turn first, then those of the file."""
    named = [tokenizer.eos_token_id, *(_token_id(header, name) for name in ENDS)]
    return list(dict.fromkeys(id_ for id_ in named if isinstance(id_, int)))


def end_of_turn(tokenizer: PreTrainedTokenizerFast, control: list[str]) -> str | None:
    """Return the control token that the chat template writes after an assistant's turn; None where it writes none, and
    without a template."""
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": SENTINEL}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # none, or one that refuses the messages in a way of its own: the file's own token holds
        return None
    _, said, after = str(text).rpartition(SENTINEL)
    return max((word for word in control if said and after.lstrip().startswith(word)), key=len, default=None)


def _add_control_words(fast: Tokenizer, header: GgufHeader, words: list[str]) -> list[str]:
    """Let the tokenizer read every control token and word of the user as one token: the converters of some
    architectures know only a few. Return all of them."""
    kinds = header.fields.get("tokenizer.ggml.token_type")
    kinds = kinds if isinstance(kinds, list) else []
    known = {token.content for token in fast.get_added_tokens_decoder().values()}
    found = [(word, kind) for word, kind in zip(words, kinds, strict=False) if word and word not in known]
    fast.add_special_tokens([AddedToken(word, normalized=False) for word, kind in found if kind == CONTROL])
    fast.add_tokens([AddedToken(word, normalized=False) for word, kind in found if kind == USER_DEFINED])
    return [token.content for token in fast.get_added_tokens_decoder().values()]


def _token_id(header: GgufHeader, name: str) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    id_ = header.number(key)
    if id_ is not None and id_ >= len(header.texts(TOKENS)):
        raise UserError(f"{header.place}: {key} is {id_}, beyond its vocabulary; use a sound file")
    return id_
