"""The progress bar of sampling: on a terminal only, so that log files stay readable."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from tinyddpm.cli.compile_notice import NOTICE


@contextmanager
def sampling_bar() -> Iterator[Callable[[int, int], None]]:
    """A function to call with the steps done and all to do."""
    with tqdm(unit="step", desc="sampling", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            NOTICE.finish()

        yield show
