"""The standard streams of a command: any name can be printed, and a reader who leaves takes no work along."""

import codecs
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click

ERRORS = "tinyddpm.bytes_or_escapes"


def bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handler of encoding errors: the bytes that a name holds undecoded, and backslashes for the rest."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(ERRORS, bytes_or_escapes)


class Stream:
    """A stream to write to. Once it fails, its reader gone or its disk full, `lost` is told, and what is written from
    then on is dropped."""

    def __init__(self, stream: TextIO, lost: Callable[[OSError], None]) -> None:
        self.stream, self.lost, self.gone = stream, lost, False
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # Names and signs beyond ASCII are worth more than obedience to a locale that few choose on purpose
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            with suppress(OSError):
                reconfigure(errors=ERRORS, **({"encoding": "utf-8"} if ascii_only else {}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes text, or drops it; returns its length."""
        if not self.gone:
            try:
                self.stream.write(text)
            except OSError as error:
                self.give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flushes what is not dropped."""
        if not self.gone:
            try:
                self.stream.flush()
            except OSError as error:
                self.give_up(error)

    def give_up(self, error: OSError) -> None:
        """Drops what follows, and what is buffered: as Python ends, it would be written and fail again."""
        self.gone = True
        try:
            number = os.open(os.devnull, os.O_WRONLY)
            os.dup2(number, self.stream.fileno())
            os.close(number)
        except (OSError, ValueError):
            pass
        self.lost(error)


class StandardOutput:
    """outlives_reader: whether the running command's work is more than what it prints, so that it goes on without a
    reader. silenced: the stderr of a process that prints nothing, for what it has to say all the same."""

    outlives_reader = False
    silenced: Any = None


def standard_output_lost(error: OSError) -> None:
    """Ends a command whose lines are all that it gives, as click does; tells of the loss on stderr in any other."""
    if not StandardOutput.outlives_reader:
        raise error
    reason = "its reader has left" if error.errno == errno.EPIPE else error.strerror
    click.echo(f"warning: nothing more can be printed ({reason}); the work goes on", err=True)


@contextmanager
def going_on_unread() -> Iterator[None]:
    """Within, a command goes on when nobody reads what it prints: files are what it is run for."""
    before, StandardOutput.outlives_reader = StandardOutput.outlives_reader, True
    try:
        yield
    finally:
        StandardOutput.outlives_reader = before


@contextmanager
def standard_streams() -> Iterator[None]:
    """Within, sys.stdout and sys.stderr are `Stream`s, streams that were closed from the start included."""
    fill_closed_numbers()
    before = sys.stdout, sys.stderr
    out, err = (open(os.devnull, "w", encoding="utf-8") if stream is None else stream for stream in before)  # noqa: SIM115
    sys.stdout, sys.stderr = Stream(out, standard_output_lost), Stream(err, lambda error: None)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        StandardOutput.silenced = None


def silence() -> None:
    """Drops what is printed from now on, within `standard_streams`: of several processes one speaks for all."""
    StandardOutput.silenced = sys.stderr
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def fill_closed_numbers() -> None:
    """Opens what of 0, 1 and 2 is closed: a file opened later would get the number, and what libraries print there."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
