"""What a person sees when something is wrong."""

import sys
import warnings
from typing import Any, NoReturn

import click

import backends
from tinyddpm.cli.compile_notice import NOTICE
from tinyddpm.errors import InputError


class Program(click.Group):
    """Commands whose every error that a person can mend is one line on stderr.

    Exit codes: 2 for such an error, 1 for a training that diverged, 130 when interrupted.
    """

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Runs the command and exits; arguments as of `click.Group.main`."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
            try:
                with NOTICE.shown():
                    status = super().main(*args, **{**kwargs, "standalone_mode": False})
                sys.exit(status)
            except backends.NonFiniteError as error:
                fail(f"training stopped, {error}", 1)
            except click.Abort:
                fail("interrupted", 130)
            except click.UsageError as error:
                message = error.format_message().removesuffix(".")
                fail(f"{message}. See: {error.ctx.command_path if error.ctx else self.name} --help")
            except (InputError, backends.BackendUnavailable, backends.ThreadsError) as error:
                fail(str(error))
            except OSError as error:
                name = error.filename2 or error.filename
                fail(
                    f"cannot use {name}: {error.strerror}; check its path, its permissions and the disk"
                    if name
                    else str(error)
                )
            except MemoryError as error:
                fail(f"not enough memory ({error}); use a smaller batch, image or model")


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the program with a line on stderr."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)
