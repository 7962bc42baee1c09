"""Compiling kernels at their first use; Numba keeps them on disk, and later processes load them from there.

The logger `backends.kernels` tells at level INFO of each kernel that is compiled, and of none that is loaded. Its
records carry what a program may want to show: `kernel`, a name; `seconds`, what it took, or None as it begins;
`folder`, where it is kept, or None.
"""

import hashlib
import logging
import time
from functools import cache
from pathlib import Path

from numba.core import event
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock

from backends.numba_kernels.runtime.forks import hold_during_fork

# All of the kernels
PACKAGE = Path(__file__).parents[1]
LOG = logging.getLogger("backends.kernels")
# A process forked while another thread compiles could compile nothing itself
hold_during_fork(global_compiler_lock)


def compiled(function, decorate):
    """`decorate(cache=True)(function)`: a `cfunc` or `njit` with its signature, from disk if it is there.

    A disk that cannot be written or a damaged file there costs time only; a warning in the log says so.
    """
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    # Numba names a kernel on disk by its qualified name: with the sources in it, none is loaded that was made of others
    function.__qualname__ = f"{function.__name__}_{sources_digest()}"
    with event.install_listener("numba:run_pass", Passes(name)) as passes:
        try:
            result = decorate(cache=folder() is not None)(function)
        except Exception as error:
            # If the kernel itself is at fault, this raises the same error
            result = decorate(cache=False)(function)
            LOG.warning("kernel %s can be neither kept in %s nor read from there: %s", name, folder(), error)
    passes.finish()
    return result


@cache
def sources_digest():
    """Digest of this package's sources, sub-folders included: part of every cache key.

    Numba's disk cache looks only at the file of the function that it compiles; a kernel's code comes from
    several.
    """
    return digest_of(PACKAGE)


def digest_of(package: Path) -> str:
    """Digest of the Python files below a folder: of their texts and where in it they are."""
    content = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return content.hexdigest()[:12]


@cache
def folder():
    """Where Numba keeps these kernels: in NUMBA_CACHE_DIR, beside their sources, or in the user's cache folder.

    None, with a warning in the log, if it can write to none of them.
    """
    try:
        # Any function of this file will do: the cache path depends only on the file
        return FunctionCache(folder.__wrapped__).cache_path
    except RuntimeError:
        LOG.warning(
            "compiled kernels cannot be kept, so every start compiles them again: neither %s nor the user's cache "
            "folder can be written; name a folder for them by NUMBA_CACHE_DIR",
            Path(__file__).parent / "__pycache__",
        )
        return None


class Passes(event.Listener):
    """Listens for compiler passes; loading a cached kernel triggers none."""

    def __init__(self, name):
        self.name, self.started = name, None

    def on_start(self, event):
        """Notes when the first pass began, and logs that it did."""
        if self.started is None:
            self.started = time.perf_counter()
            LOG.info("compiling %s", self.name, extra=self.extra(None))

    def on_end(self, event):
        """Nothing: `finish` tells when the last pass has ended."""

    def finish(self):
        if self.started is not None:
            seconds = time.perf_counter() - self.started
            LOG.info("compiled %s in %.2f s", self.name, seconds, extra=self.extra(seconds))

    def extra(self, seconds):
        return {"kernel": self.name, "seconds": seconds, "folder": folder()}
