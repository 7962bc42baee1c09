"""Many images from a checkpoint into a .npz or a folder, drawn in batches that are kept until all are there.

Several ranks draw a batch each at a time, and rank 0 keeps them.

What is done lies in a hidden folder, `.FILE.npz.parts` beside the file or `.parts` in the folder: `series.json`, how
the images are drawn, and an array for each batch, named by its first image. So whatever ends the process, the next one
goes on if its settings are the same, and is refused if not. After the last batch the file or the pictures are made of
the parts, which end with that.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from tinyddpm.checks import check_whole
from tinyddpm.errors import InputError
from tinyddpm.files import flush_all, flush_folder, remove_partial, replacing, write_atomically
from tinyddpm.generation.images import SAMPLE_BATCH, Drawing
from tinyddpm.locks import hold
from tinyddpm.ranks import Ranks, check_alike, together
from tinyddpm.reporting import pictures
from tinyddpm.samplers import last

SETTINGS = "series.json"
ALL = "all.npz"


class Series:
    """Images 0 … count - 1 of a drawing on their way to `output`, a .npz or else a folder; a context that locks it.

    The .npz has images (N, H, W, C) uint8, labels (N,) int64 where they were asked for, seed, settings, JSON, and what
    they are about in words.
    overwrite: pictures in the folder, a file of that name, and parts of another drawing may go. ranks: the processes
    that draw together, of which each has such an object; only rank 0 locks and writes. Raises InputError for what would
    have to be overwritten without leave, and where another process draws to the same place.
    """

    def __init__(
        self,
        output: Path,
        drawing: Drawing,
        count: int,
        batch_size: int = SAMPLE_BATCH,
        overwrite: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.output, self.drawing, self.overwrite = output, drawing, overwrite
        self.count, self.batch_size = check_whole("count", count), check_whole("batch_size", batch_size)
        self.is_file = output.suffix.lower() == ".npz"
        self.parts = output.with_name(f".{output.name}.parts") if self.is_file else output / ".parts"
        self.settings = {"count": self.count, "batch_size": self.batch_size, **described(drawing)}

    def __enter__(self) -> Self:
        check_alike(self.ranks, {name.replace("_", "-"): value for name, value in self.settings.items()})
        with together(self.ranks):
            if self.ranks.rank == 0:
                self.open()
        return self

    def open(self) -> None:
        """Locks the output."""
        self.lock = hold(self.parts if self.is_file else self.output)
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self.ranks.rank > 0:
            return
        self.lock.release()
        with suppress(OSError):
            self.parts.rmdir()

    def begin(self) -> None:
        """Takes up the parts of these settings, and deletes those of others where it may."""
        for folder in {self.parts, self.parts if self.is_file else self.output}:
            remove_partial(folder)
        begun = read_settings(self.parts / SETTINGS)
        if begun != self.settings:
            if begun is not None and not self.overwrite:
                raise InputError(
                    f"{self.output} is unfinished and of other settings: {difference(begun, self.settings)}; go on "
                    "with those, give another name, or --overwrite to begin anew"
                )
            self.clear()
        if not self.overwrite and self.missing():
            self.check_no_older()

    def check_no_older(self) -> None:
        """Raises InputError where a finished file, or older pictures, would have to go."""
        if self.is_file and self.output.exists():
            raise InputError(f"{self.output} is there already; give another name, or --overwrite to replace it")
        if not self.is_file and (older := pictures.numbered(self.output)):
            raise InputError(
                f"{self.output} already holds {len(older)} pictures, {older[0].name} … {older[-1].name}; give a new "
                "folder, or --overwrite to delete them"
            )

    def missing(self) -> list[tuple[int, int]]:
        """First image and number of images of each batch that is to be drawn."""
        batches = [(first, min(self.batch_size, self.count - first)) for first in range(0, self.count, self.batch_size)]
        return [(first, n) for first, n in batches if not is_array(self.part(first), (n, *self.drawing.size))]

    def kept(self) -> int:
        """How many images are drawn."""
        return self.count - sum(n for _, n in self.missing())

    def part(self, first: int) -> Path:
        """Where the batch that begins with an image is kept."""
        return self.parts / f"{first:08d}.npy"

    def draw(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Draws what is missing, keeping each batch, and makes the output of all.

        progress is called with the steps done and all to do, by this rank. Raises what the sampler refuses.
        """
        missing = self.ranks.from_first(self.missing() if self.ranks.rank == 0 else None)
        size, done = self.ranks.size, 0
        rounds = [missing[first : first + size] for first in range(0, len(missing), size)]
        for batches in rounds:

            def step(state: Any) -> Any:
                nonlocal done
                done += 1
                progress(done, len(rounds) * self.drawing.steps)
                return state

            mine = None
            if self.ranks.rank < len(batches):
                mine = self.drawing.to_uint8(last(map(step, self.drawing.states(*batches[self.ranks.rank]))).x)
            drawn = self.ranks.gather(mine)
            if self.ranks.rank == 0:
                for (first, _), images in zip(batches, drawn, strict=False):
                    if images is not None:
                        self.keep(first, images)
        if self.ranks.rank == 0:
            self.finish()

    def keep(self, first: int, images: np.ndarray) -> None:
        """Writes the batch that begins with image `first`."""
        self.lock.check()
        if not (self.parts / SETTINGS).exists():
            write_atomically(self.parts / SETTINGS, (json.dumps(self.settings, indent=2) + "\n").encode())
        buffer = io.BytesIO()
        np.save(buffer, images, allow_pickle=False)
        write_atomically(self.part(first), buffer.getvalue())

    def finish(self) -> None:
        """Makes the file or the pictures of the parts, which end when those are on the disk."""
        self.lock.check()
        firsts = range(0, self.count, self.batch_size)
        if self.is_file:
            self.write_npz(self.parts / ALL)
            (self.parts / ALL).replace(self.output)
            flush_folder(self.output.parent)
        else:
            for older in pictures.numbered(self.output):
                older.unlink()
            for first in firsts:
                pictures.save_each(self.output, np.load(self.part(first)), first)
            flush_all(self.output)
        self.clear()

    def write_npz(self, path: Path) -> None:
        """What `np.savez` would write, without all images in memory at once."""
        labels = self.drawing.labels(self.count)
        arrays = {"seed": np.array(self.drawing.seed, np.uint64), "settings": np.array(json.dumps(self.settings))}
        arrays["about"] = np.array(self.drawing.about)
        arrays |= {} if labels is None else {"labels": labels}
        with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.drawing.size)}
                np.lib.format.write_array_header_1_0(member, header)
                for first in range(0, self.count, self.batch_size):
                    member.write(np.load(self.part(first)).tobytes())
            for name, array in arrays.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def clear(self) -> None:
        """Deletes the parts; first their settings, without which what a sudden end leaves of them is nobody's."""
        (self.parts / SETTINGS).unlink(missing_ok=True)
        for part in self.parts.glob("*.np[yz]"):
            part.unlink()


def described(drawing: Drawing) -> dict[str, Any]:
    """All that the images depend on but their number, as JSON has it."""
    model, diffusion = drawing.model, drawing.checkpoint.diffusion
    digest = hashlib.sha256(model.backend.to_numpy(model.params).tobytes())
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for array in (diffusion.schedule.betas, diffusion.schedule.timesteps):
        digest.update(array.tobytes())
    digest.update(f"{diffusion.prediction} {diffusion.variance}".encode())
    backend = " ".join([model.backend.name, getattr(model.backend, "precision", "")]).strip()
    named = ("steps", "sampler", "spacing", "seed", "label", "unlabelled", "guidance")
    return {
        **{name: getattr(drawing, name) for name in named},
        **drawing.more,
        "checkpoint": digest.hexdigest(),
        "backend": backend,
    }


def difference(begun: dict[str, Any], settings: dict[str, Any]) -> str:
    """The first setting that differs, and how."""
    name = next(name for name in [*settings, *begun] if begun.get(name) != settings.get(name))
    before, now = (str(of.get(name))[:12] for of in (begun, settings))
    return f"it was begun with {name.replace('_', '-')} {before}, not {now}"


def read_settings(path: Path) -> dict[str, Any] | None:
    """What `draw` wrote there; None where there is nothing, and {} for what is no such file."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_array(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a whole array of bytes of that shape is there."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return found.shape == shape and found.dtype == np.uint8
