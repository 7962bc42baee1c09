"""What ranks that share a batch may get wrong."""

from typing import Any

from tests.museum.exhibit import Check, Mutant, check
from tests.museum.switch import Edit
from tests.museum.test_killers import in_a_folder
from tests.tinyddpm.ranks import test_agreement, test_several_ranks, test_shared_batches

TRAINER = "tinyddpm.training.trainer:Trainer"
WEIGHING = "tinyddpm.diffusion.process:Diffusion.weights_and_bound"
BEAT = "tinyddpm.training.several_ranks:Beat"


def alike(name: str, size: int = 3) -> Check:
    """The check that `size` ranks train as one does."""
    return check(test_shared_batches.test_any_number_of_ranks_trains_as_one_does, name=name, dtype="float64", size=size)


PLAIN, LEARNED, IMPORTANCE, MIN_SNR = (
    alike(name) for name in ("no classes, huber", "learned variance", "the bound, by importance", "min-SNR")
)


def in_its_folder(test: Any, **arguments: Any) -> Check:
    """A test that wants a folder."""
    return check(lambda: in_a_folder(lambda folder: test(folder, **arguments)))


MUTANTS = (
    Mutant(
        48,
        "a share weighed as the whole",
        (Edit(f"{TRAINER}.draw", "(share.stop - share.start) / size", "1.0"),),
        (PLAIN,),
    ),
    Mutant(
        48,
        "shares weighed alike, though one has an image more",
        (Edit(f"{TRAINER}.draw", "(share.stop - share.start) / size", "1 / self.ranks.size"),),
        (PLAIN,),
        passes=(alike("no classes, huber", 7),),
    ),
    Mutant(
        48, "noise by the row of the share", (Edit(f"{TRAINER}.draw", '"first": share.start', '"first": 0'),), (PLAIN,)
    ),
    Mutant(
        48,
        "rows of the first share for all",
        (Edit("tinyddpm.data.batches:Batches.at", "first + begin,", "first,"),),
        (check(test_shared_batches.test_rows_of_a_batch_are_those_of_the_whole),),
    ),
    Mutant(48, "gradients not summed", (Edit(f"{TRAINER}.launch", "self.ranks.sum(self.gradient)", "pass"),), (PLAIN,)),
    Mutant(48, "the loss of a share", (Edit(f"{TRAINER}.launch", "self.ranks.sum(measured[:1])", "pass"),), (PLAIN,)),
    Mutant(
        48,
        "the bound of a share weighed as the whole",
        (Edit(WEIGHING, "bound = part * ", "bound = "),),
        (LEARNED,),
        passes=(PLAIN,),
    ),
    Mutant(
        48,
        "a share's weight in place of min-SNR's",
        (Edit(WEIGHING, "np.ones(len(t)) if weights is None else weights", "np.ones(len(t))"),),
        (MIN_SNR,),
        passes=(PLAIN,),
    ),
    Mutant(
        48,
        "importance remembers its own share alone",
        (
            Edit(
                f"{TRAINER}.remember",
                "in self.ranks.gather((indices, np.array(losses[:n]) / bound[:, -1])):",
                "in [(indices, np.array(losses[:n]) / bound[:, -1])]:",
            ),
        ),
        (IMPORTANCE,),
    ),
    Mutant(
        48,
        "a NaN told of by whoever did not meet it",
        (Edit(f"{TRAINER}.told_of_all", "self.ranks.gather(found)", "[found]"),),
        (check(test_shared_batches.test_what_is_not_finite_in_one_share_stops_all_before_anything_moved, place=6),),
    ),
    Mutant(
        48,
        "an error that the others are not told of",
        (Edit("tinyddpm.ranks.agreement:together", "if failed:", "if error is not None:"),),
        (check(test_agreement.TestTogether().test_an_error_of_one_is_an_error_of_all, failing=(1,), kind=OSError),),
    ),
    Mutant(
        48,
        "a signal that only its rank obeys",
        (Edit(f"{BEAT}.stopped", "self.agreed if self.trainer.ranks.size > 1 else self.hears()", "self.hears()"),),
        (in_its_folder(test_several_ranks.test_a_signal_to_one_rank_stops_all_after_the_same_step, hearing=1),),
    ),
    Mutant(
        48,
        "moments that followers do not get",
        (Edit("tinyddpm.training.several_ranks:spread", "trainer.optimizer.m, ", ""),),
        (in_its_folder(test_several_ranks.test_followers_have_the_state_of_the_first, learned=False, size=2),),
    ),
    Mutant(
        48,
        "every rank draws the batch of the first",
        (Edit("tinyddpm.reporting.series:Series.draw", "batches[self.ranks.rank]", "batches[0]"),),
        (in_its_folder(test_several_ranks.test_ranks_draw_what_one_draws, size=2, kind=".npz"),),
    ),
)
