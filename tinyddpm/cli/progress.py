"""The progress bar of sampling, on a terminal only, so that log files stay readable; lines beside a bar."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
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


def tell(line: str) -> None:
    """A line on stdout, beside a progress bar if one is there; written at once, even into a file."""
    with tqdm.external_write_mode():
        click.echo(line)
