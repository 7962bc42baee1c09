"""How long a training takes: its rate, the time left, and early on an estimate in one line."""

import time
from collections.abc import Callable

# The first steps are slower: they fill memory pools and record the network
WARM_UP = 2
# What an estimate is made from, at least
FEWEST_STEPS = 5
FEWEST_SECONDS = 2.0
# A shorter wait needs no estimate
WORTH_A_LINE = 60.0


class Pace:
    """Steps and seconds of a training, from its `done`-th step on; total: its steps in all."""

    def __init__(self, total: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.clock, self.estimated = total, clock, False
        self.begun = self.warm = done
        self.step, self.now = done, clock()
        self.begun_at = self.warm_at = self.now

    def take_out(self, seconds: float) -> None:
        """Leaves these seconds, which say nothing of the steps to come, out of the rate."""
        self.begun_at += seconds
        self.warm_at += seconds

    def note(self, step: int) -> None:
        """The training has come to this step."""
        self.step, self.now = step, self.clock()
        if self.warm == self.begun and step - self.begun >= WARM_UP:
            self.warm, self.warm_at = step, self.now

    @property
    def rate(self) -> float:
        """Steps a second, without the first ones as soon as there are others."""
        from_step, since = (self.warm, self.warm_at) if self.step > self.warm else (self.begun, self.begun_at)
        return (self.step - from_step) / max(self.now - since, 1e-9)

    @property
    def left(self) -> float:
        """Seconds to the end."""
        return (self.total - self.step) / self.rate

    def estimate(self) -> str | None:
        """Once, a few steps into a long training: a line that says how long it takes. Otherwise None."""
        steps, seconds = self.step - self.warm, self.now - self.warm_at
        if self.estimated or self.warm == self.begun or steps < FEWEST_STEPS or seconds < FEWEST_SECONDS:
            return None
        self.estimated = True
        if self.left < WORTH_A_LINE:
            return None
        return f"about {duration(self.left)} for the {self.total - self.step:,} steps to come"


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "12 min", "3 h 20 min", "2 days 5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 5400:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"
