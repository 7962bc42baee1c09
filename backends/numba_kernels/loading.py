"""Loads Numba and the kernels, or says in one line why they do not load."""

import importlib
import importlib.util
import os
import warnings
from types import ModuleType

from backends.backend import BackendUnavailable


def load() -> ModuleType:
    """The module of the kernels, `functions`.

    Raises BackendUnavailable where Numba is missing, does not load, or is told not to compile.
    """
    if importlib.util.find_spec("numba") is None:
        raise BackendUnavailable("numba is not installed; run: pip install numba")
    try:
        if numba_module().config.DISABLE_JIT:
            raise BackendUnavailable("numba does not compile while NUMBA_DISABLE_JIT is set; unset it")
        return importlib.import_module("backends.numba_kernels.functions")
    except BackendUnavailable:
        raise
    except Exception as error:  # whatever a variable of Numba's or another version of NumPy makes it raise
        reason = " ".join(str(error).split()) or type(error).__name__
        told = ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_"))
        hint = f"unset {told}, if that is why" if told else "install other versions of numba or numpy"
        raise BackendUnavailable(f"numba does not load ({reason}); {hint}") from error


def numba_module() -> ModuleType:
    """Numba, loaded. Its warnings are cut to one line: for a variable that it ignores, it prints a traceback too."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        numba = importlib.import_module("numba")
    for warning in told:
        warnings.warn(str(warning.message).splitlines()[0], warning.category, stacklevel=2)
    return numba
