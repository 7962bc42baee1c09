"""A run of several ranks: rank 0 has the folder, and the others follow it, from state to state."""

from collections.abc import Callable

import numpy as np

import backends
from tinyddpm.networks.registry import build_network
from tinyddpm.ranks import Ranks, check_alike, together
from tinyddpm.training.importance import Importance
from tinyddpm.training.optimizers import EMA, Adam
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_folder import Run
from tinyddpm.training.trainer import Trainer


def lead(run: Run, ranks: Ranks) -> None:
    """On rank 0: has the others, which call `follow`, take part in the run. Raises SharedError where one cannot."""
    trainer = run.trainer
    if ranks.size > 1:
        counts = trainer.step, trainer.optimizer.steps, trainer.ema.updates
        memory = trainer.importance and (trainer.importance.losses, trainer.importance.counts)
        ranks.from_first((run.config.to_dict(), counts, memory))
        with together(ranks):
            trainer.share_with(ranks)
        check_alike(ranks, {"data": run.summary})
        spread(trainer, ranks)


def follow(ranks: Ranks, backend: backends.Backend) -> tuple[Trainer, RunConfig]:
    """On the other ranks: a trainer in the state of rank 0's, and the run's config. Raises SharedError as `lead`."""
    told, (step, moved, averaged), memory = ranks.from_first(None)
    with together(ranks):
        config = RunConfig.from_dict(told)
        diffusion, training = config.diffusion.build(), config.training
        dataset = config.data.load()
        batches, _ = Run.images(config, diffusion, dataset)
        model = build_network(config.model, backend=backend, seed=training.seed)
        optimizer = Adam(model.params, training.lr, weight_decay=training.weight_decay, backend=backend)
        ema = EMA(model.params, training.ema_decay, backend=backend)
        optimizer.steps, ema.updates = moved, averaged
        importance = None if memory is None else Importance(diffusion.schedule.T, *memory)
        trainer = Trainer(model, diffusion, batches, training, optimizer, ema, step, importance, ranks)
    check_alike(ranks, {"data": dataset.summary})
    spread(trainer, ranks)
    return trainer, config


def spread(trainer: Trainer, ranks: Ranks) -> None:
    """Gives all ranks the parameters, moments and average of rank 0."""
    for array in (trainer.model.params, trainer.optimizer.m, trainer.optimizer.v, trainer.ema.params):
        host = np.array(trainer.model.backend.to_numpy(array))
        ranks.fill_from_first(host)
        array[...] = backends.namespace(array).asarray(host)


class Beat:
    """What the ranks agree on after each step: whether to stop, as a signal asks that any of them got, and whether to
    look at what was measured.

    stopped: whether a signal came to this rank. checked_every: steps after which the ranks see that they still have
    the same weights.
    """

    def __init__(self, trainer: Trainer, stopped: Callable[[], bool], checked_every: int) -> None:
        self.trainer, self.hears, self.checked_every = trainer, stopped, checked_every
        self.agreed = False

    def due(self, look: bool = False) -> bool:
        """Whether any rank wants to look, after each step; as of `Trainer.run`."""
        trainer = self.trainer
        if trainer.ranks.size > 1:
            self.agreed, look = map(bool, trainer.ranks.most(np.array([self.hears(), look], np.int32)))
            if self.agreed or trainer.step % self.checked_every == 0 or trainer.step >= trainer.config.steps:
                trainer.check_same()
        return look

    def stopped(self) -> bool:
        """Whether all are to stop after this step. A process by itself does as soon as the signal comes."""
        return self.agreed if self.trainer.ranks.size > 1 else self.hears()
