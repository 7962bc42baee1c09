"""The recorded networks of the Numba backend."""

import pytest

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
        "what NumPy does to a kernel's result lost",
        (
            Edit(f"{RECORDING}:recorded", "view.flags.writeable = False", "view.flags.writeable = True"),
            Edit(f"{RECORDING}:recorded", "return view.view(Recorded)", "return view"),
        ),
        tuple(
            check(test_recording.test_what_is_not_all_kernels_is_called, function=function)
            for function in (test_recording.in_place, test_recording.gradient_by_numpy, test_recording.noted)
        ),
        passes=(ONCE,),
    ),
    Mutant(
        29,
        "a kernel's result open to compiled code",
        (Edit(f"{RECORDING}:recorded", "view.flags.writeable = False", "view.flags.writeable = True"),),
        (
            check(
                test_recording.test_what_is_not_all_kernels_is_called,
                function=test_recording.in_place_by_numba,
            ),
        ),
        passes=(ONCE,),
    ),
    Mutant(
        29,
        "a replaced operation recorded though nothing says that it may be",
        (Edit("backends.numba_backend:NumbaBackend.not_recordable", "self.kernels.not_recordable()", "return"),),
        (
            check(
                test_recording.test_replaced_operations_are_called_unless_they_are_marked,
                kind=test_recording.OfKernels,
                calls=4,
            ),
        ),
        passes=(ONCE,),
    ),
    Mutant(
        29,
        "operations that are replaced later not noticed",
        (Edit("backends.backend:Methods.have_changed", "if now == self.seen:", "if self.seen:"),),
        (
            check(
                test_recording.test_operations_that_are_replaced_later_count_from_then_on,
                monkeypatch=pytest.MonkeyPatch(),
            ),
        ),
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
