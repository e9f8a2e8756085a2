"""Trains the tiny base: a Qwen2 of 0.9M parameters that knows the formats and is mediocre at every role.

Clean skills first, mediocrity after: practice rows (copy, look up, compare), then clean demonstrations, then noisy
ones at a lower rate. Three things make minutes enough: Muon on the matrices (Jordan 2024, in torch.optim), small
batches, and attention heads that start out looking at the previous tokens (`look_back`).
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from aslfast.checkpoint.run_dir import check_new_run_dir
from aslfast.index.bm25 import BM25Index
from aslfast.lab import demonstrations
from aslfast.lab.demonstrations import Row, Slips
from aslfast.lab.world import FIRST_WORDS, LITERALS, SECOND_WORDS, World
from aslfast.prompts import role_tasks
from aslfast.prompts.chat_template import TAGS, Chat
from aslfast.rollout.search_tool import SEARCH, SearchTool

TOP_K = 2
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
CLEAN = Slips()
NOISY = Slips(
    guess=0.38, wrong_fact=0.69, stop_early=0.33, judge_wrong_fact=0.1, wrong_verdict=0.24, wrong_reference=0.05
)
VERDICT_WEIGHT = 6.0  # of the loss at the tokens that decide a verdict
BATCH_TOKENS = 2000
LIVE_SHARE = 0.3  # of a batch's tokens that carry loss, about: the constant that the loss is divided by


@dataclass(frozen=True, slots=True)
class Stage:
    """So many tokens of rows, their kinds drawn from a mixture (shares of rows), at one learning-rate scale."""

    name: str
    tokens: int
    mixture: dict[str, float]
    slips: Slips = CLEAN
    lr_scale: float = 1.0
    decay_share: float = 0.4  # the last part of the stage, over which the rate falls to nothing


STAGES = (
    Stage("copy and look up", 350_000, {"copy": 0.3, "look_up": 0.7}),
    Stage("compare", 450_000, {"compare": 0.6, "look_up": 0.3, "copy": 0.1}),
    Stage(
        "clean roles",
        1_800_000,
        {"policy": 0.18, "grm": 0.22, "generator": 0.14, "compare": 0.3, "look_up": 0.11, "copy": 0.05},
    ),
    Stage(
        "noisy roles",
        400_000,
        {"policy": 0.18, "grm": 0.22, "generator": 0.14, "compare": 0.3, "look_up": 0.11, "copy": 0.05},
        NOISY,
        0.4,
    ),
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each word of the lab is one token, the same behind a tag as behind a space."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(' ?["\n]'), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=2, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_vocabulary_text(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    tags = [mark for tag in TAGS for mark in (f"<{tag}>", f"</{tag}>")]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*tags, *CALL_FRAME)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def _vocabulary_text() -> list[str]:
    words = [
        *FIRST_WORDS,
        *SECOND_WORDS,
        *(word for values in LITERALS.values() for word in values),
        *demonstrations.RELATIONS,
    ]
    words += FRAME_WORDS
    return [f" {word} {word}" for word in words] + [' "', ' "', " \n", " \n"]


def make_model(tokenizer: Any, seed: int) -> Any:
    """Tied embeddings of unit variance; the final norm starts at d^-0.5, so that logits start near unit scale."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, rms_norm_eps=1e-6,
        initializer_range=0.05, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model: Any = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, 1.0)
        model.model.norm.weight.fill_(config.hidden_size**-0.5)
        for layer, shifts in ((0, (1, 2, 3, 4)), (1, (1,))):
            for head, shift in enumerate(shifts):
                look_back(model, layer, head, shift)
    return model


def look_back(model: Any, layer: int, head: int, shift: int, gain: float = 7.0) -> None:
    """Sets a head's query and key biases so that it starts out attending `shift` tokens back.

    Rotary embeddings turn a constant query q and key k into sum_f a_f b_f cos(w_f (i - j) + phase_f); with the key's
    phase 0 and the query's turned by -w_f * shift this peaks at i - j = shift.
    """
    attention = model.model.layers[layer].self_attn
    size = attention.head_dim
    theta = (
        model.config.rope_parameters["rope_theta"]
        if hasattr(model.config, "rope_parameters")
        else model.config.rope_theta
    )
    w_f = theta ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    rows = slice(head * size, (head + 1) * size)
    attention.k_proj.bias.data[rows] = gain * torch.cat([torch.ones_like(w_f), torch.zeros_like(w_f)])
    attention.q_proj.bias.data[rows] = gain * torch.cat([torch.cos(w_f * shift), -torch.sin(w_f * shift)])


class Rows:
    """An endless stream of rows of one stage; a fresh world every `per_world` demonstrations."""

    def __init__(self, chat: Chat, stage: Stage, seed: int, folder: Path, per_world: int = 2000) -> None:
        self.chat, self.stage, self.folder, self.per_world = chat, stage, folder, per_world
        self.rng = random.Random(f"{seed}-{stage.name}")
        self.made = 0

    def __iter__(self) -> Iterator[Row]:
        kinds, shares = zip(*self.stage.mixture.items(), strict=True)
        while True:
            if self.made % self.per_world == 0:
                self._new_world()
            self.made += 1
            yield getattr(self, f"_{self.rng.choices(kinds, shares)[0]}")()

    def _new_world(self) -> None:
        self.world = World.make(self.rng.randrange(1 << 30), "base")
        index = BM25Index.build(self.world.passages(), self.folder / f"{self.stage.name}-{self.made}".replace(" ", "-"))
        tool = SearchTool(index, TOP_K)
        self.search = lambda query: tool.answer([role_tasks.Call(SEARCH, (query,))])[0]

    def _question(self) -> str:
        return self.world.ask(self.rng, self.rng.choices((1, 2, 3), (4, 4, 2))[0]).question

    def _policy(self) -> Row:
        return demonstrations.policy_row(
            self.chat, self.world, self.search, self._question(), self.stage.slips, self.rng
        )

    def _grm(self) -> Row:
        question = self._question()
        answer = self.world.answer(question)
        assert answer is not None
        if self.rng.random() < 0.5:
            answer = demonstrations.wrong_answer(self.world, question, answer, self.rng)
        return demonstrations.grm_row(
            self.chat, self.world, self.search, question, answer, self.stage.slips, self.rng, VERDICT_WEIGHT
        )

    def _generator(self) -> Row:
        item = self.world.ask(self.rng, self.rng.choice((1, 2, 3)))
        return demonstrations.generator_row(
            self.chat, self.world, self.search, item.question, item.hops, self.stage.slips, self.rng
        )

    def _copy(self) -> Row:
        return demonstrations.copy_row(self.chat, self.rng)

    def _look_up(self) -> Row:
        return demonstrations.look_up_row(self.chat, self.rng)

    def _compare(self) -> Row:
        return demonstrations.compare_row(self.chat, self.rng, VERDICT_WEIGHT)


def batches(rows: Iterator[Row], tokens: int, parts: int = 3) -> Iterator[list[list[Row]]]:
    """Batches of about `tokens`, each of `parts` micro-batches of like lengths, drawn from all lengths alike."""
    rng = random.Random(0)
    while True:
        pool: list[Row] = []
        while sum(len(row.token_ids) for row in pool) < 8 * tokens:
            pool.append(next(rows))
        pool.sort(key=lambda row: len(row.token_ids))
        found: list[list[Row]] = [[]]
        for row in pool:
            if (len(found[-1]) + 1) * len(row.token_ids) > tokens / parts * 1.1 and found[-1]:
                found.append([])
            found[-1].append(row)
        rng.shuffle(found)
        yield from (found[i : i + parts] for i in range(0, len(found), parts))


def padded(rows: Sequence[Row], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids_BT and weights_BT, right-padded; causal attention never looks at the padding."""
    length = max(len(row.token_ids) for row in rows)
    ids_BT = torch.full((len(rows), length), pad_id)
    weights_BT = torch.zeros(len(rows), length)
    for i, row in enumerate(rows):
        ids_BT[i, : len(row.token_ids)] = torch.tensor(row.token_ids)
        weights_BT[i, : len(row.token_ids)] = torch.tensor(row.weights)
    return ids_BT, weights_BT


def loss_of(model: Any, ids_BT: torch.Tensor, weights_BT: torch.Tensor, constant: float) -> torch.Tensor:
    """Weighted cross-entropy summed and divided by a constant: short rows then weigh no more than long ones."""
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    live_BT = weights_BT[:, 1:] > 0
    logits_TV = hidden_BTD[live_BT] @ model.lm_head.weight.T
    losses_T = torch.nn.functional.cross_entropy(logits_TV, ids_BT[:, 1:][live_BT], reduction="none")
    return (losses_T * weights_BT[:, 1:][live_BT]).sum() / constant


class Optimizers:
    """Muon on the matrices, AdamW on the rest; the embedding's rate is larger since its variance is 1, not 1/d."""

    def __init__(self, model: Any) -> None:
        embedding = model.model.embed_tokens.weight
        matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
        vectors = [p for p in model.parameters() if p.ndim != 2]
        muon = torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0)
        groups = [{"params": [embedding], "lr": 3e-2}, {"params": vectors, "lr": 3e-3}]
        self.parts = (muon, torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0))
        self.groups = [(group, group["lr"]) for part in self.parts for group in part.param_groups]

    def step(self, lr_scale: float) -> None:
        for group, rate in self.groups:
            group["lr"] = rate * lr_scale
        for part in self.parts:
            part.step()
            part.zero_grad(set_to_none=True)


Report = Callable[[str, int, int, float], None]  # stage, tokens done, tokens in all, loss


def train_stage(
    model: Any,
    optimizers: Optimizers,
    stage: Stage,
    stream: Iterator[list[list[Row]]],
    report: Callable[[int, float], None],
) -> None:
    seen = 0
    while seen < stage.tokens:
        left = 1 - seen / stage.tokens
        loss = 0.0
        for rows in next(stream):
            part = loss_of(model, *padded(rows, model.config.pad_token_id), constant=BATCH_TOKENS * LIVE_SHARE)
            part.backward()
            loss += float(part.detach())
            seen += sum(len(row.token_ids) for row in rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(stage.lr_scale * min(1.0, left / stage.decay_share) + 1e-4)
        report(seen, loss)


def train_base(
    out: str | Path, seed: int = 0, report: Report = lambda *_: None, stages: Sequence[Stage] = STAGES
) -> Path:
    """Trains the base and writes it to the new folder `out` as safetensors, with its tokenizer.

    The same seed, torch and processor give the same bytes. Raises UserError if `out` holds anything.
    """
    folder = Path(out)
    check_new_run_dir(folder)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores
    tokenizer = make_tokenizer()
    chat, model = Chat(tokenizer), make_model(tokenizer, seed).train()
    optimizers, total, done = Optimizers(model), sum(stage.tokens for stage in stages), 0
    with tempfile.TemporaryDirectory() as scratch:
        for stage in stages:
            stream = batches(iter(Rows(chat, stage, seed, Path(scratch))), BATCH_TOKENS)
            train_stage(
                model,
                optimizers,
                stage,
                stream,
                lambda seen, loss, name=stage.name, before=done: report(name, min(before + seen, total), total, loss),
            )
            done += stage.tokens
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
