"""What a person sees when something is wrong."""

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

import backends
from tinyddpm.errors import InputError


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns what a person can mend into one line on stderr and exit code 2; a diverged training gives 1."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
        try:
            command(*args, **kwargs)
        except (InputError, backends.BackendUnavailable, OSError) as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)
        except MemoryError as error:
            click.echo(f"error: not enough memory ({error}); use a smaller batch, image or model", err=True)
            sys.exit(2)
        except backends.NonFiniteError as error:
            click.echo(f"error: training stopped, {error}", err=True)
            sys.exit(1)

    return guarded
