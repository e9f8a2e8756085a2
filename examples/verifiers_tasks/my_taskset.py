"""A taskset as packages for verifiers write it: who has which job, in the words of the lab's tiny base."""

import random
from collections.abc import Iterator

import verifiers.v1 as vf

JOBS = ("smith", "baker", "surgeon", "sailor", "painter", "mason", "farmer", "lawyer")
GUESTS = ("Rala Telbom", "Batu Nirkek", "Kano Berbek", "Nepa Dunkom", "Vome Pentum")


class JobData(vf.TaskData):
    answer: str


class JobTask(vf.Task[JobData]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.1)
    async def is_a_job(self, trace: vf.Trace) -> float:
        return float(trace.last_reply in JOBS)


class JobTaskset(vf.Taskset[JobTask]):
    def load(self) -> Iterator[JobTask]:
        for number in range(64):
            rng = random.Random(number)
            guests, jobs = rng.sample(GUESTS, 2), rng.sample(JOBS, 2)
            told = " ".join(f"{guest} has job {job}." for guest, job in zip(guests, jobs, strict=True))
            prompt = f"{told} what is the job of {guests[0]}?"
            yield JobTask(JobData(prompt=prompt, answer=jobs[0]), self.config.task)


__all__ = ["JobTaskset"]
