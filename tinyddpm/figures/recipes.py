"""The training runs that figures are drawn from, as options of `tinyddpm train`: in full, and in a quick form."""

import shlex
from dataclasses import dataclass
from itertools import pairwise

from tinyddpm.checks import check_choice

# Two cores take a training of each recipe's full form to its end in at most two hours
MNIST = "--data mnist --image-size 28 --attention-resolutions 7 --classes"
FULL = "--base-channels 32 --channel-mults 1,2,4"
# For comparisons, which train several. Widths are multiples of 16, as others take longer for no more
SMALLER = "--base-channels 16 --channel-mults 1,2,4"
# The models of the table of quality: as good as two hours make them
BEST = "--channel-mults 1,2,2 --prediction v --schedule cosine --lr 1e-3 --warmup-steps 500 --validate-every 1000"
# A run is looked at in the middle, too: its weights there should not depend on where it was to end
RATE = "--lr 5e-4 --lr-decay constant"
CARS = "--data stanford-cars --color --schedule linear --flip"

# Between checkpoints of a run that is looked at only at its end
SAVE_EVERY = 500

QUICK = "--base-channels 16 --channel-mults 1,2 --num-res-blocks 1 --attention-resolutions= --lr 2e-3 --batch-size 32"
QUICK_BEST = f"{QUICK} --warmup-steps 24 --validate-every 0"


@dataclass(frozen=True)
class Recipe:
    """A run. options: of `tinyddpm train` in full; quick: those added in the quick form, where the last counts.

    steps, quick_steps: of the optimiser. kept: the checkpoints that stay, evenly spaced and the last at the end, so
    that figures can look at earlier epochs. minutes: what the full form takes on two cores, roughly.
    """

    options: str
    steps: int
    kept: int = 1
    minutes: int = 40
    quick: str = QUICK
    quick_steps: int = 240

    def total(self, quick: bool) -> int:
        """Steps in all."""
        return self.quick_steps if quick else self.steps

    def step_at(self, share: float, quick: bool) -> int:
        """The step of the kept checkpoint nearest to that share of the run."""
        every = self.total(quick) // self.kept
        return max(1, round(share * self.kept)) * every

    def arguments(self, quick: bool, stand_in: bool = False) -> list[str]:
        """The options as a command line takes them; stand_in: digits in place of a set that is not at hand."""
        total = self.total(quick)
        words = shlex.split(self.options) + (shlex.split(self.quick) if quick else [])
        if stand_in:
            colour = "--color" in words
            words += ["--data", "digits", "--image-size", "16" if colour else "8"]
        if self.kept == 1:
            kept = f"--checkpoint-every {min(SAVE_EVERY, total)} --keep-checkpoints 2"
        else:
            # Those of interruptions stay as well, and those of a run that is made longer
            kept = f"--checkpoint-every {total // self.kept} --keep-checkpoints 100"
        return [*words, "--steps", str(total), *kept.split()]

    @property
    def data(self) -> str:
        """The data set's name."""
        words = shlex.split(self.options)
        return [word for before, word in pairwise(words) if before == "--data"][-1]


# Steps in an epoch of 60,000 images in batches of 64
EPOCH = 938

RECIPES: dict[str, Recipe] = {
    "fashion-linear": Recipe(
        f"{MNIST} --data fashion-mnist {FULL} {RATE} --schedule linear", 5 * EPOCH, kept=5, minutes=17
    ),
    "mnist-linear": Recipe(f"{MNIST} {SMALLER} {RATE} --schedule linear", 12 * EPOCH, kept=4, minutes=15),
    "mnist-cosine": Recipe(f"{MNIST} {SMALLER} {RATE} --schedule cosine", 12 * EPOCH, kept=4, minutes=15),
    "mnist": Recipe(f"{MNIST} --base-channels 32 {BEST} --variance learned", 12_000, minutes=32, quick=QUICK_BEST),
    "fashion-mnist": Recipe(
        f"{MNIST} --data fashion-mnist --base-channels 48 {BEST}", 20_000, minutes=105, quick=QUICK_BEST
    ),
    "cars-64": Recipe(
        f"{CARS} --image-size 64 {FULL} {RATE} --attention-resolutions 16 --batch-size 32",
        8000,
        kept=8,
        minutes=100,
        quick=f"{QUICK} --image-size 32 --batch-size 16",
    ),
    "cars-128": Recipe(
        f"{CARS} --image-size 128 --base-channels 32 --channel-mults 1,1,2,4 {RATE} --attention-resolutions 16 "
        "--batch-size 16",
        3000,
        minutes=60,
        quick=f"{QUICK} --base-channels 8 --image-size 64 --batch-size 8",
        quick_steps=80,
    ),
    "full": Recipe(f"{MNIST} {SMALLER} {RATE}", 4 * EPOCH, kept=8, minutes=5),
    "input": Recipe(f"{MNIST} {SMALLER} {RATE} --time-embedding input", 4 * EPOCH, kept=8, minutes=5),
    "huber": Recipe(f"{MNIST} {SMALLER} {RATE} --loss huber", 4 * EPOCH, kept=8, minutes=5),
    "l1": Recipe(f"{MNIST} {SMALLER} {RATE} --loss l1", 4 * EPOCH, kept=8, minutes=5),
    # As many parameters as "full", within 3 %
    "simple": Recipe(
        f"--data mnist --image-size 28 --classes --model simple --base-channels 64 --channel-mults 1,1,3 {RATE}",
        4 * EPOCH,
        kept=8,
        minutes=6,
        quick="--channel-mults 1,2 --base-channels 32 --lr 2e-3 --batch-size 32",
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises InputError for another."""
    return RECIPES[check_choice("run", name, tuple(RECIPES))]
