"""Errors meant for people: one line that says what is wrong, the value seen, what is accepted, what to do."""


class InputError(ValueError):
    """An argument, a configuration or a file that cannot be used as given."""


class MissingDataError(InputError, FileNotFoundError):
    """A file or data set that is not where it was looked for."""

    def __str__(self) -> str:
        # FileNotFoundError formats its arguments as an errno pair; the message alone is wanted.
        return str(self.args[0])


class DamagedFileError(InputError):
    """A file whose content is not what its format or checksum promises."""
