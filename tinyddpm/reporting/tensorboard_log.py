"""A run's scalars and sample grids as TensorBoard reads them, in event files in the run's folder."""

import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from tinyddpm.errors import InputError
from tinyddpm.training.trainer import Metrics

SAMPLES = "samples"


class TensorboardLog:
    """Writes what happens from a step on, as a context. What older files of the folder hold of later steps no longer
    counts: those are taken again.

    Raises InputError where the package tensorboard is missing.
    """

    def __init__(self, folder: Path, step: int) -> None:
        check_installed()
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(folder))
        # Readers take away all from the step of a start on
        start = SessionLog(status=SessionLog.START)
        self.writer.add_event(Event(session_log=start, step=step + 1, wall_time=time.time()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.writer.close()

    def scalars(self, metrics: Metrics) -> None:
        """The numbers of a step, by the names that metrics.jsonl has for them."""
        values = asdict(metrics)
        step = values.pop("step")
        self.add([{"tag": name, "simple_value": value} for name, value in values.items()], step)

    def picture(self, path: Path, step: int) -> None:
        """A PNG of samples."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as picture:
            size = {"width": picture.width, "height": picture.height, "colorspace": len(picture.getbands())}
        image = Summary.Image(**size, encoded_image_string=path.read_bytes())
        self.add([{"tag": SAMPLES, "image": image}], step)

    def add(self, values: list[dict[str, Any]], step: int) -> None:
        """An event with these fields of values."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value) for value in values])
        self.writer.add_event(Event(summary=summary, step=step, wall_time=time.time()))

    def flush(self) -> None:
        """Puts into the files what was written."""
        self.writer.flush()


def check_installed() -> None:
    """Raises InputError where the package is missing."""
    try:
        import tensorboard.summary.writer.event_file_writer  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--log-to tensorboard needs a package ({error}); run: pip install 'tinyddpm[tensorboard]', or leave it out"
        ) from error
