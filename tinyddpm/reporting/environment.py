"""Where and how long a run was trained: lines in its folder, of machine and versions at each change, of seconds."""

import json
import os
import platform
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import backends
from backends import thread_count
from tinyddpm.doctor import PACKAGES, installed
from tinyddpm.files import append_line

NAME = "environment.jsonl"


def environment(backend: backends.Backend) -> dict[str, str]:
    """Facts by what they are of, in words."""
    threads = thread_count.setting()
    packages = ((name, installed(name)) for name in PACKAGES)
    precision = f", {backend.precision}" if isinstance(backend, backends.CupyBackend) else ""
    return {
        "tinyddpm": installed("tinyddpm"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{os.cpu_count()} × {processor()}",
        "threads": f"{threads.number} ({threads.source})",
        "backend": f"{backend.name}{precision}",
        "packages": ", ".join(f"{name} {version}" for name, version in packages if version != "missing"),
    }


def processor() -> str:
    """What the processors are called, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def record(folder: Path, backend: backends.Backend, step: int) -> None:
    """Notes in a run's folder where it goes on from that step, if that is not where it was before.

    Raises OSError that names the file.
    """
    before, now = read_environments(folder)[-1:], environment(backend)
    if [{**found, "from_step": step} for found in before] != [{**now, "from_step": step}]:
        append_line(folder / NAME, json.dumps({"from_step": step, **now}))


class Spent(NamedTuple):
    """Seconds by the clock that training took from step `since`, 0 where all of it was noted, to `step`."""

    step: int
    since: int
    seconds: float


class Stopwatch:
    """The seconds of a run's training, pictures and compilation included, over all the processes that took part.

    folder, step: of the run, which goes on from that step now. What a crash made be trained again counts once.
    """

    def __init__(self, folder: Path, step: int) -> None:
        before = read_spent(folder) or Spent(step, step, 0.0)
        self.folder, self.since, self.began = folder, before.since, monotonic() - before.seconds

    def note(self, step: int) -> None:
        """Adds a line to the run's folder, for a checkpoint of that step. Raises OSError that names the file."""
        spent = Spent(step, self.since, round(monotonic() - self.began, 3))
        append_line(self.folder / NAME, json.dumps(spent._asdict()))


def read_spent(folder: Path) -> Spent | None:
    """The last seconds noted; None for runs of earlier versions."""
    found = [values for values in read_lines(folder) if Spent._fields == tuple(values)]
    return Spent(**found[-1]) if found else None


def read_environments(folder: Path) -> list[dict[str, Any]]:
    """Where the run was trained, oldest first; empty for runs of earlier versions."""
    return [values for values in read_lines(folder) if "from_step" in values]


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """All that was noted, oldest first, lines that are none left out."""
    path, found = folder / NAME, []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # cut short by a crash
        if isinstance(values, dict):
            found.append(values)
    return found
