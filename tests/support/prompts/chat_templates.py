"""Chat templates of every structure that models have, cut down to it, and tokenizers of every kind to render them."""

import re
from functools import partial

import tokenizers
import transformers

from tests.support.tiny_models import CHATML, byte_tokenizer

QWEN = (  # as Qwen2.5: a default system message, tool messages inside a user's turn
    "{% if messages[0]['role'] == 'system' %}<|im_start|>system\n{{ messages[0]['content'] }}<|im_end|>\n"
    "{% else %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' or m.role == 'assistant' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (  # as Gemma: no system role, roles must alternate, contents are trimmed, "model" for the assistant
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}<bos>"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PLAIN = (  # as Llama 2: knows user and assistant alone, the rest is dropped without a word; brackets are plain text
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} </s>{% endif %}{% endfor %}"
)
JSON = (  # as Llama 3.1: a tool's text as JSON; its system message shows a date
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}"
    "<|eot_id|>{% for m in messages %}"
    "{% if m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n"
    "{{ m.content | tojson if m.content is iterable else m.content }}<|eot_id|>"
    "{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
JSON_OUTPUT = JSON.replace("m.content | tojson", "{'output': m.content} | tojson")  # as Llama 3.3
OPENS_THINKING = (  # as Qwen3.5, Nemotron 3: <think> in the prompt and after each tool message; drops old thoughts
    "{% for m in messages %}{% set content = m.content | trim %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ content }}\n</tool_response><|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n<think>\n\n</think>\n\n"
    "{{ content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CLOSES_THINKING = OPENS_THINKING.replace("<think>\n{% endif %}", "<think>\n\n</think>\n\n{% endif %}")
DEEPSEEK = (  # as DeepSeek: the system message bare, <think> in the prompt, nothing after a tool's output
    "{{ bos_token }}{% set ns = namespace(tool=false) %}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{% set ns.tool = false %}<|User|>{{ m.content }}"
    "{% elif m.role == 'tool' %}{% set ns.tool = true %}<|tool_output|>{{ m.content }}<|tool_end|>"
    "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|end_of_sentence|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not ns.tool %}<|Assistant|><think>\n{% endif %}"
)
NO_END = (  # as GLM 4: no token ends a turn, the next one's role does
    "[gMASK]<sop>{% for m in messages %}"
    "{% if m.role == 'tool' %}<|observation|>\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% elif m.role == 'assistant' %}<|assistant|>\n<think></think>\n{{ m.content.strip() }}"
    "{% else %}<|{{ m.role }}|>\n{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NAMED = (  # as Muse: a tool message shows the tool's name, the prompt a date where none is given
    "{% for m in messages %}{% if m.role == 'tool' %}<|start|>tool {{ m.name }}<|message|>"
    '<tool_output name="{{ m.name }}">\n{{ m.content }}\n</tool_output><|eot|>'
    "{% else %}<|start|>{{ m.role }}<|message|>{% if m.role == 'system' %}{{ strftime_now('%Y-%m-%d') }} {% endif %}"
    "{{ m.content }}<|eot|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
NEEDS_CALLS = (  # as Mistral v0.3, GPT-OSS: no tool message without the structured call before it
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no call') if not m.tool_call_id }}"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% endfor %}"
)
PARTS = (  # as LLaVA: messages are lists of parts, a text is none; refused
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for part in m.content | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>{% endfor %}"
)
BROKEN = "{{ messages[0].content | no_such_filter }}"
USABLE = {
    "chatml": CHATML, "qwen": QWEN, "strict": STRICT, "plain": PLAIN, "json": JSON, "json output": JSON_OUTPUT,
    "opens thinking": OPENS_THINKING, "closes thinking": CLOSES_THINKING, "deepseek": DEEPSEEK, "no end": NO_END,
    "named": NAMED, "needs calls": NEEDS_CALLS,
}  # fmt: skip
REFUSED = {"parts": PARTS, "broken": BROKEN, "none": None}
_CONTROL = r"<[|｜][\w▁]+[|｜]>|<(?:start|end)_of_turn>|\[/?[A-Z_]{3,}\]|<(?:sop|bos|/s)>|<turn\||<\|turn>"  # noqa: RUF001


def control_tokens(template: str) -> list[str]:
    return sorted(set(re.findall(_CONTROL, template)) - {"[INST]", "[/INST]"}) or ["<|im_end|>"]


def by_bytes(template: str):
    control = control_tokens(template)
    tokenizer = byte_tokenizer(template, ["<pad>", "<s>", *control], ["<tool_call>", "</tool_call>"], control[0])
    tokenizer.bos_token = "<s>"
    return tokenizer


def sentencepiece(template: str, legacy: bool = False):
    """Spaces as "▁", one of them before each text ("first", as Mistral v0.3, TinyLlama) or, `legacy`, also after each
    control token (as Llama 2). Letters are tokens, as are a few pairs that span what stands side by side."""
    letters = ["<unk>", "▁", "\n", *map(chr, range(33, 127))]
    merges = [("▁", "["), ("▁", "<"), ("▁", "T"), (">", "\n"), ("x", "\n"), ("▁", "▁")]
    vocabulary = {word: i for i, word in enumerate([*letters, *(a + b for a, b in merges)])}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>"))
    if legacy:
        steps = [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
        core.normalizer = tokenizers.normalizers.Sequence(steps)
    else:
        core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = tokenizers.decoders.Replace("▁", " ")
    control = control_tokens(template)
    core.add_special_tokens([tokenizers.AddedToken(word, special=True, normalized=False) for word in ["<s>", *control]])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token=control[0], pad_token="<s>", chat_template=template
    )


TOKENIZERS = {"bytes": by_bytes, "first": sentencepiece, "legacy": partial(sentencepiece, legacy=True)}
