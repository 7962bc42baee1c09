"""What a person sees of the first run, which compiles the kernels: a line before the wait and one after it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class CompilationNotice(logging.Handler):
    """Shows the log of `backends.kernels` on stderr; nothing where all kernels come from disk."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.kernels, self.seconds = False, 0, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.INFO:
            say(f"warning: {record.getMessage()}")
        elif record.seconds is not None:  # type: ignore[attr-defined]
            self.kernels += 1
            self.seconds += record.seconds  # type: ignore[attr-defined]
        elif not self.begun:
            self.begun = True
            kept = record.folder  # type: ignore[attr-defined]
            say(f"compiling kernels, once; they are kept in {kept}" if kept else "compiling kernels")

    def finish(self) -> float:
        """Says what was compiled since it last did, if anything was; returns the seconds that it took."""
        seconds, kernels, self.seconds, self.kernels = self.seconds, self.kernels, 0.0, 0
        if kernels:
            say(f"compiled {kernels} kernel{'s' * (kernels > 1)} in {seconds:.1f} s")
        return seconds

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within, the log is shown."""
        log = logging.getLogger("backends.kernels")
        level, self.begun = log.level, False
        log.setLevel(logging.INFO)
        log.addHandler(self)
        try:
            yield
        finally:
            self.finish()
            log.removeHandler(self)
            log.setLevel(level)


def say(line: str) -> None:
    """A line on stderr, beside a progress bar if one is there."""
    tqdm.write(line, file=sys.stderr)


NOTICE = CompilationNotice()
