"""Each second of a run counts once, for the innermost part that is running."""

import asyncio
import threading
import time

import pytest

from aslfast.clock import PartClock, Seconds


class FakeTime:
    """The processor works half of the time."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return Seconds(self.at, self.at / 2)

    def sleep(self, seconds):
        self.at += seconds


def test_each_second_counts_for_the_innermost_part():
    now = FakeTime()
    clock = PartClock(now)
    now.sleep(100)  # before and between parts nothing counts
    with clock.part("rest"):
        now.sleep(1)
        with clock.part("rollout"):
            now.sleep(2)
            with clock.part("tool"):
                now.sleep(4)
            now.sleep(8)
            with clock.part("tool"), clock.part("tool"):
                now.sleep(16)
        now.sleep(32)
    now.sleep(100)
    with clock.part("rest"):
        now.sleep(64)
    assert clock.seconds == {"rest": (97, 48.5), "rollout": (10, 5), "tool": (20, 10)}


def test_a_part_that_fails_is_left_and_counted():
    now = FakeTime()
    clock = PartClock(now)
    with clock.part("rest"):
        with pytest.raises(ZeroDivisionError), clock.part("learn"):
            now.sleep(1)
            raise ZeroDivisionError
        now.sleep(2)
    assert clock.seconds == {"rest": (2, 1), "learn": (1, 0.5)}


def test_inside_an_opaque_part_no_other_is_entered():
    now = FakeTime()
    clock = PartClock(now, frozenset({"monitor"}))
    with clock.part("monitor"), clock.part("reward"):
        now.sleep(1)
    with clock.part("reward"):
        now.sleep(2)
    assert clock.seconds == {"monitor": (1, 0.5), "reward": (2, 1)}


def test_coroutines_that_take_turns_share_one_clock():
    """A part that waits goes on counting, less what others do meanwhile: as the rollout and the searches."""
    now = FakeTime()
    clock = PartClock(now)

    async def searches():
        for _ in range(3):
            await asyncio.sleep(0)
            now.sleep(1)  # sampling, as far as the clock knows
            with clock.part("tool"):
                now.sleep(10)

    async def step():
        with clock.part("rollout"):
            await asyncio.gather(searches(), searches())

    asyncio.run(step())
    assert clock.seconds == {"rollout": (6, 3), "tool": (60, 30)}


def test_what_another_thread_does_meanwhile_is_counted_beside():
    clock = PartClock(opaque=frozenset({"monitor"}))

    def work():
        with clock.part("tool"):
            time.sleep(0.05)

    with clock.part("rollout"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert set(clock.seconds) == {"rollout"} and clock.overlapped["tool"] >= 0.05
    work()  # nothing else runs now: this thread's own part
    assert clock.seconds["tool"].wall >= 0.05


def test_the_running_part_is_counted_up_to_now():
    now = FakeTime()
    clock = PartClock(now)
    with clock.part("rest"):
        now.sleep(3)
        assert clock.seconds == {"rest": (3, 1.5)}
        now.sleep(1)
    assert clock.seconds == {"rest": (4, 2)}


def test_a_timed_function_keeps_its_name_and_result():
    clock = PartClock(FakeTime())

    @clock.timed("reward")
    def score(answer):
        """Score."""
        clock.now.sleep(2)
        return answer * 2

    assert score(3) == 6 and score.__name__ == "score" and clock.seconds == {"reward": (2, 1)}
