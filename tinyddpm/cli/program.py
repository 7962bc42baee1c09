"""What a person sees when something is wrong."""

import errno
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import click

import backends
from tinyddpm.cli.compile_notice import NOTICE
from tinyddpm.cli.interrupts import interrupts
from tinyddpm.cli.output import StandardOutput, standard_streams
from tinyddpm.errors import InputError
from tinyddpm.ranks import MpiRanks, SharedError, world_so_far


class Program(click.Group):
    """Commands whose every error that a person can mend is one line on stderr.

    Exit codes: 2 for such an error, 1 for a training that diverged, 130 when interrupted.
    """

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Runs the command and exits; arguments as of `click.Group.main`."""
        with standard_streams(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
            try:
                with interrupts(), NOTICE.shown():
                    status = super().main(*args, **{**kwargs, "standalone_mode": False})
                # Those who are done rest until all are
                world_so_far().wait()
                sys.exit(status)
            except backends.NonFiniteError as error:
                fail(f"training stopped, {error}", 1, shared=True)
            except SharedError as error:
                fail(str(error), shared=True)
            except (click.Abort, KeyboardInterrupt) as error:
                fail(f"interrupted{error}", 130)
            except click.UsageError as error:
                message = error.format_message().removesuffix(".")
                fail(f"{message}. See: {error.ctx.command_path if error.ctx else self.name} --help")
            except (InputError, backends.BackendUnavailable, backends.ThreadsError) as error:
                fail(str(error))
            except OSError as error:
                fail(told(error))
            except UnicodeEncodeError as error:
                fail(
                    f"{error.object!r} cannot be the name of a file in this locale, of the encoding {error.encoding}; "
                    "use another, such as LC_ALL=C.UTF-8"
                )
            except MemoryError as error:
                fail(f"not enough memory ({error}); use a smaller batch, image or model")
            except Exception:
                if isinstance(ranks := world_so_far(), MpiRanks):
                    # The others would wait for this one for ever
                    traceback.print_exc(file=StandardOutput.silenced or sys.stderr)
                    ranks.abort(1)
                raise


# What helps, by what the system says
REMEDIES = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room, or have your quota raised",
    errno.EFBIG: "make room, or raise the limit on the size of files",
    errno.EIO: "check the disk and its connection",
}


def told(error: OSError) -> str:
    """What the system says, of which file, and what to do."""
    remedy = REMEDIES.get(error.errno or 0, "check its path, its permissions and the disk")
    name = error.filename2 or error.filename
    if name:
        return f"cannot use {name}: {error.strerror}; {remedy}"
    return f"a file, or the network, failed: {error.strerror or error}; {remedy}" if error.errno else str(error)


def going_on(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"go on with: tinyddpm train --resume {shlex.quote(str(folder))}"


def fail(message: str, code: int = 2, shared: bool = False) -> NoReturn:
    """Ends the program with a line on stderr. shared: all ranks come here, and rank 0 speaks for them; otherwise this
    one, whichever it is, speaks and ends the others."""
    message, ranks = " ".join(message.split()), world_so_far()
    if shared or ranks.size == 1:
        click.echo(f"error: {message}", err=True)
    elif isinstance(ranks, MpiRanks):
        click.echo(f"error: rank {ranks.rank}: {message}", file=StandardOutput.silenced or sys.stderr)
        ranks.abort(code)
    sys.exit(code)
