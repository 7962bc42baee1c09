"""The recorded networks of the Numba backend."""

from tests.backends import test_recording
from tests.museum import test_killers
from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit

RECORDING = "backends.numba_kernels.runtime.recording"
# What notices nothing: a recording that is run once
ONCE = check(test_recording.test_an_error_passes_and_leaves_nothing_behind)

MUTANTS = (
    Mutant(
        29,
        "a recording that goes on with its first inputs",
        (Edit(f"{RECORDING}:Program.run", "self.fill(inputs)", "inputs = None"),),
        (
            check(test_recording.test_gradients_too),
            check(test_killers.test_predictions_between_training_steps_are_those_of_the_weights_of_the_moment),
        ),
        passes=(ONCE,),
    ),
    Mutant(
        29,
        "arrays of other code taken for those of kernels",
        (Edit(f"{RECORDING}:Recording.check", "if not any(", "if False and not any("),),
        (check(test_recording.test_what_is_not_all_kernels_is_called, function=test_recording.foreign_parameters),),
        passes=(ONCE,),
    ),
    Mutant(
        29,
        "one function's recording run for another",
        (Edit(f"{RECORDING}:Recorder.run", "key = (name, threads()", "key = (threads()"),),
        (check(test_recording.test_functions_are_told_apart_by_name),),
        passes=(ONCE,),
    ),
    Mutant(
        29,
        "a result that the next run overwrites",
        (Edit(f"{RECORDING}:Recorder.run", "result[...] = program.output", "result = program.output"),),
        (check(test_recording.test_equals_the_function_to_the_bit),),
        passes=(ONCE,),
    ),
)
