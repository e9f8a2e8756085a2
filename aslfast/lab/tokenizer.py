"""The tiny base's tokenizer: a byte-level BPE over the words of the lab, with a ChatML template."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from aslfast.lab.names import FIRST_WORDS, SECOND_WORDS
from aslfast.lab.world import LITERALS, RELATIONS
from aslfast.prompts.parsing import MARKS

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CALL_FRAME = ('{"name": "search", "arguments": {"query": "', '"}}')  # one token each: a tiny model spends none on JSON
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
FRAME_WORDS = (
    *("user", "assistant", "tool", "answer", "judge", "ask", "what", "is", "the", "of", "has", "find", "guess", "says"),
    *("same", "different", "correct", "wrong", "nothing", "found", "1", "2", "3"),
)
LAB_WORDS = (
    *FIRST_WORDS, *SECOND_WORDS, *(word for values in LITERALS.values() for word in values), *RELATIONS, *FRAME_WORDS,
)  # fmt: skip


def make_tokenizer(words: Sequence[str] = LAB_WORDS) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE in which each of the words is one token, the same after a tag as after a space."""
    tokenizer = Tokenizer(models.BPE())
    apart = pre_tokenizers.Split(Regex(' ?["\n]'), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([apart, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=2, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_vocabulary_text(words), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*MARKS, *CALL_FRAME)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def _vocabulary_text(words: Sequence[str]) -> list[str]:
    """Return the text that the BPE is trained on: each word twice, each on its own."""
    return [f" {word} {word}" for word in words] + [' "', ' "', " \n", " \n"]
