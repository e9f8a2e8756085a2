"""Tasks of the package verifiers (0.4): a taskset gives the prompts, and its rewards read the policy's answer.

For tasksets that need the conversation alone: one with tools, a container, hooks around a rollout or a simulated user
is refused, since these run in a harness of verifiers, which would sample in our place.
"""

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor

import verifiers.v1 as vf
from verifiers.v1.trace import AgentInfo, TraceTask
from verifiers.v1.utils.loaders import load_taskset, taskset_config_type

from aslfast.environment import Environment

TASKSET = "my_taskset"  # the id of an installed taskset, or a module in this folder
EVALUATED, TRAINED = 16, 1000  # the first tasks are held out, the next ones trained on
SCORER = ThreadPoolExecutor(1)  # rewards are coroutines, and this thread runs a loop already


class Reply:
    """One answer to one task."""

    observation = ""  # the prompt is the task's text

    def __init__(self, task: vf.Task) -> None:
        self.task = task

    def step(self, action: str) -> tuple[None, float]:
        data = self.task.data
        said = [vf.UserMessage(content=data.prompt_text), vf.AssistantMessage(content=action)]
        trace = vf.Trace(
            task=TraceTask(type=type(self.task).__name__, data=data, key=self.task.key, hash=self.task.hash),
            agent=AgentInfo(config=vf.AgentConfig()),
            nodes=[vf.MessageNode(message=said[0]), vf.MessageNode(message=said[1], parent=0, sampled=True)],
        )
        SCORER.submit(asyncio.run, self.task.score(trace)).result()
        return None, trace.reward


class FromVerifiers(Environment):
    def __init__(self, config):
        super().__init__(config)
        taskset = load_taskset(taskset_config_type(TASKSET)(id=TASKSET))
        found = list(taskset.take(EVALUATED + TRAINED))
        if refused := next((task for task in found if needs_more(taskset, task)), None):
            raise ValueError(f"{TASKSET}: {type(refused).__name__} needs more than the conversation")
        self.by_text = {text_of(task): task for task in found}

    def tasks(self):
        return list(self.by_text)[EVALUATED:]

    def eval_tasks(self):
        return list(self.by_text)[:EVALUATED]

    def reset(self, task, seed):
        return Reply(self.by_text[task.question])


def text_of(task: vf.Task) -> str:
    """Return what the policy reads: the task's system prompt, if it has one, and its prompt."""
    return "\n\n".join(filter(None, [task.data.system_prompt, task.data.prompt_text])).strip()


def needs_more(taskset: vf.Taskset, task: vf.Task) -> bool:
    """Return whether a task needs what only a harness of verifiers has."""
    tools = type(taskset).toolsets(taskset.config) or type(task).toolsets(task.config)
    hooks = type(task).setup is not vf.Task.setup or type(task).finalize is not vf.Task.finalize
    in_runtime = any("runtime" in inspect.signature(reward).parameters for reward in task.hooks("reward"))
    return bool(tools or hooks or in_runtime or task.NEEDS_CONTAINER or task.data.image or not text_of(task))
