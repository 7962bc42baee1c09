"""Resuming, NaN, labels and held-out images."""

from pathlib import Path

from tests.museum import test_killers
from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit
from tests.museum.test_killers import in_a_folder
from tests.tinyddpm.diffusion import test_objective
from tests.tinyddpm.training import test_validation

RESUME = check(test_killers.test_interrupted_and_resumed_training_is_the_same_to_the_bit)
RESUMING = "tinyddpm.training.run_folder:Run.reopen"
DRAWING = "tinyddpm.training.trainer:Trainer.draw"
VALIDATION = "tinyddpm.training.validation"


def small_folder(folder: Path) -> None:
    """One in ten of eleven pictures is held out."""
    test_validation.TestHeldOut().test_a_small_folder_gives_up_every_tenth(folder, count=11, held=[9])


MUTANTS = (
    Mutant(20, "optimiser forgotten", (Edit(RESUMING, "checkpoint.optimizer,\n", "None,\n"),), (RESUME,)),
    Mutant(
        20,
        "steps of the optimiser forgotten",
        (
            Edit(
                "tinyddpm.training.checkpoint:build",
                'optimizer.steps = description["optimizer_steps"]',
                "optimizer.steps = 0",
            ),
        ),
        (RESUME,),
    ),
    Mutant(20, "average forgotten", (Edit(RESUMING, "checkpoint.ema,\n", "None,\n"),), (RESUME,)),
    Mutant(
        20,
        "updates of the average forgotten",
        (Edit("tinyddpm.training.checkpoint:build", 'checkpoint.ema.updates = description["ema"]["updates"]', "pass"),),
        (RESUME,),
    ),
    Mutant(20, "step forgotten", (Edit(RESUMING, "checkpoint.step,\n", "0,\n"),), (RESUME,)),
    Mutant(
        20,
        "order of the data forgotten",
        (
            Edit(
                DRAWING,
                "self.batches.at(number,",
                'self.batches.at(number - vars(self).setdefault("begun", number),',
            ),
        ),
        (RESUME,),
    ),
    Mutant(
        20,
        "noise forgotten",
        (Edit(DRAWING, "step=number,", 'step=number - vars(self).setdefault("begun", number),'),),
        (RESUME,),
    ),
    Mutant(
        21,
        "NaN trained on",
        (
            Edit(
                "tinyddpm.training.trainer:Trainer.read",
                "if not (math.isfinite(loss) and math.isfinite(norm)):",
                "if loss is None:",
            ),
        ),
        (
            check(test_killers.test_an_overflow_stops_training_with_its_operation_named),
            check(test_killers.test_nan_in_a_parameter_stops_training_with_its_name),
        ),
    ),
    Mutant(
        21,
        "NaN noticed after the update",
        (
            Edit(
                "tinyddpm.training.trainer:Trainer.move",
                " + be.number(self.fault)\n",
                "\n",
            ),
        ),
        (check(test_killers.test_an_overflow_stops_training_with_its_operation_named),),
    ),
    Mutant(
        21,
        "NaN saved over good checkpoints",
        (Edit("tinyddpm.training.run_folder:Run.checkpoint", "trainer.check_finite()", "pass"),),
        (check(test_killers.test_nan_is_not_saved_and_the_good_checkpoints_stay),),
    ),
    Mutant(
        23,
        "labels never dropped",
        (
            Edit(
                "tinyddpm.diffusion.objective:drop_labels",
                "np.where(u < share,",
                "np.where(u < 0,",
            ),
        ),
        (
            check(test_objective.test_the_asked_share_of_labels_is_dropped, share=0.7),
            check(
                test_objective.test_label_dropout_trains_the_unconditional_branch,
                share=0.5,
                unconditional=True,
                conditional=True,
            ),
        ),
    ),
    Mutant(
        37,
        "held-out images trained on",
        (Edit(f"{VALIDATION}:hold_out", "dataset.take(numbers[~held])", "dataset"),),
        (check(in_a_folder, function=small_folder),),
    ),
    Mutant(
        37,
        "held-out images with the noise of training",
        (Edit(f"{VALIDATION}:Validation.loss", "streams.VALIDATION_NOISE", "streams.TRAINING_NOISE"),),
        (check(test_validation.TestLoss().test_its_random_numbers_are_its_own),),
    ),
    Mutant(
        37,
        "held-out images with the same noise in all batches",
        (Edit(f"{VALIDATION}:Validation.loss", "streams.VALIDATION_NOISE, number,", "streams.VALIDATION_NOISE, 0,"),),
        (check(test_validation.TestLoss().test_its_random_numbers_are_its_own),),
    ),
    Mutant(
        37,
        "the averaged weights not looked at",
        (Edit(f"{VALIDATION}:Validation.measure", "self.loss(model.with_params(average))", "self.loss(model)"),),
        (check(test_validation.TestLoss().test_weights_and_their_average),),
    ),
)
