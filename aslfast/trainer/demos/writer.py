"""Writes a demonstration as the trajectory that a rollout would have left: same prompt, frames and readers."""

from __future__ import annotations

import json

from aslfast.config.roles import default_roles
from aslfast.core import Kind, StopReason, Task, Trajectory, Turn
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.tool_calls import SEARCH
from aslfast.rollout.multi_turn import Limits, read_turn
from aslfast.rollout.search_tool import Observation


class DemonstrationWriter:
    """One trajectory in progress. Its log-probs are 0: no model sampled it."""

    def __init__(self, chat: Chat, task: Task, system: str) -> None:
        self.chat, self.task = chat, task
        self._ids: list[int] = []
        self._turns: list[Turn] = []
        self._append("prompt", chat.prompt_ids(task.prompt, system), task.prompt)

    def search(self, thought: str, query: str, observation: Observation) -> None:
        """Append a turn that thinks and searches, and what the tool answers."""
        call = json.dumps({"name": SEARCH, "arguments": {"query": self.inert(query)}}, ensure_ascii=False)
        self._say(f"<think>{self.inert(thought)}</think>\n<tool_call>{call}</tool_call>")
        ids = self.chat.observation_ids(observation.text, turn_closed=False)
        self._append("tool", ids, observation.text, passages=observation.passages)

    def close(self, thought: str, **outputs: str) -> None:
        """Append the closing turn: a thought, then each output in the tag of its name."""
        said = "".join(f"<{tag}>{self.inert(text)}</{tag}>" for tag, text in outputs.items())
        self._say(f"<think>{self.inert(thought)}</think>\n{said}")

    def trajectory(self, limits: Limits) -> Trajectory | str:
        """Return the trajectory, or the reason why no rollout could be it: too long, or read as something else."""
        turns = [turn for turn in self._turns if turn.kind == "sampled"]
        longest = max(turn.end - turn.start for turn in turns)
        before_last = turns[-1].start + limits.max_new_tokens
        if longest > limits.max_new_tokens or before_last > limits.max_context or len(turns) > limits.max_turns:
            return "too long"
        actions = [read_turn(default_roles()[self.task.role].output, turn.said, "stop") for turn in turns]
        end = actions[-1]
        if isinstance(end, tuple) or end.stop is not StopReason.FINISHED:
            return "not readable"
        if not all(isinstance(action, tuple) for action in actions[:-1]):
            return "not readable"
        mask = [int(turn.kind == "sampled") for turn in self._turns for _ in range(turn.start, turn.end)]
        zeros = (0.0,) * len(mask)
        stream = tuple(self._ids), tuple(mask), zeros, tuple(self._turns)
        return Trajectory(self.task, *stream, StopReason.FINISHED, end.output, end.output_answer)

    def inert(self, text: str) -> str:
        """Return a text that spells no control token and no tag, as it stands in the prompt and the observation."""
        return self.chat.escape_control_tokens(text)

    def _say(self, text: str) -> None:
        """Append a turn, without its <think> where the template has opened it."""
        in_thinking = self.chat.opens_thinking(first_turn=len(self._turns) == 1)
        text = text.removeprefix("<think>") if in_thinking else text
        ids = self.chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        self._append("sampled", ids, self.chat.text(ids), in_thinking)

    def _append(
        self, kind: Kind, ids: list[int], text: str, in_thinking: bool = False, passages: tuple[str, ...] = ()
    ) -> None:
        end = len(self._ids) + len(ids)
        self._turns.append(Turn(kind, len(self._ids), end, text, in_thinking=in_thinking, passages=passages))
        self._ids += ids
