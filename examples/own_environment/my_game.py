"""A game that is not search: guests tell their jobs, and the policy is asked for one but wins with the first guest's.

It names jobs until it has the right one: 1 at the first guess, 1/2 at the second, 1/4 at the third. A step that wins
over half of that adds a guest to the next round's games. The words are the lab's: its tiny base knows no others.
"""

import random

from aslfast.environment import Environment

JOBS = ("smith", "baker", "surgeon", "sailor", "painter", "mason", "farmer", "lawyer")
GUESTS = ("Rala Telbom", "Batu Nirkek", "Kano Berbek", "Nepa Dunkom", "Vome Pentum")


class Game:
    """One game; every trajectory plays its own."""

    def __init__(self, guests, rng):
        jobs = rng.sample(JOBS, len(guests))
        self.wanted, self.prize = jobs[0], 1.0
        told = (f"{guest} has job {job}." for guest, job in zip(guests, jobs, strict=True))
        self.observation = f"{' '.join(told)} what is the job of {rng.choice(guests)}?"

    def step(self, action):
        if action == self.wanted:
            return None, self.prize
        self.prize /= 2
        return ("wrong" if self.prize > 0.2 else None), 0.0


class GuessTheJob(Environment):
    guests = 2  # of the games to train on

    def tasks(self):
        return [f"{self.guests} guests."] * 16

    def eval_tasks(self):
        return ["3 guests."] * 16

    def reset(self, task, seed):
        return Game(GUESTS[: int(task.question[0])], random.Random(seed))

    def update(self, groups):
        won = [reward.total for group in groups for reward in group.rewards]
        if sum(won) > len(won) / 2:
            self.guests = min(self.guests + 1, len(GUESTS))

    def state(self):
        return {"guests": self.guests}

    def restore(self, state):
        self.guests = state["guests"]
