"""Where a run was trained: machine, versions, threads; a line in the run's folder at its start, and for each change."""

import json
import os
import platform
from pathlib import Path
from typing import Any

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


def read_environments(folder: Path) -> list[dict[str, Any]]:
    """What was noted, oldest first, lines that are none left out; empty for runs of earlier versions."""
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
