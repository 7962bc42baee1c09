"""Sections of a session on a GPU: what fails is told in full, and the next begins; results are on disk at once."""

import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Session:
    """Collects rows by section, and writes them, and everything that is said, to a folder.

    seconds: all that there is; a section may ask what is left of it. child: whether sections that should have a process
    of their own run in this one.
    """

    def __init__(self, folder: Path, seconds: float, about: dict[str, Any], child: bool = True) -> None:
        self.child = child
        self.folder, self.end = folder, time.monotonic() + seconds
        self.began = time.monotonic()
        self.found: dict[str, Any] = {"about": about, "failures": []}
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "gpu.log"
        self.log.write_text("", encoding="utf-8")
        self.write()

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def say(self, text: str) -> None:
        """On the screen and in the log, with the seconds since the start."""
        line = f"[{time.monotonic() - self.began:6.1f} s] {text}"
        print(line, flush=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def row(self, section: str, **values: Any) -> None:
        """A result."""
        self.found.setdefault(section, []).append(values)
        shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        self.say(f"{section}: {shown}")
        self.write()

    def attempt(self, what: str, work: Callable[[], Any]) -> Any:
        """work(), or None and a failure, whose whole traceback and compiler output the log has."""
        try:
            return work()
        except Exception as error:  # whatever it is, the rest of the session must be had
            causes, cause = [], error.__cause__
            while cause is not None:
                causes.append(f"{type(cause).__name__}: {cause}")
                cause = cause.__cause__
            self.found["failures"].append({"what": what, "error": f"{type(error).__name__}: {error}", "causes": causes})
            self.say(
                f"FAILED {what}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            )
            with self.log.open("a", encoding="utf-8") as log:
                log.write("".join(traceback.format_exception(error)) + "\n")
            self.write()
            return None

    def section(self, name: str, work: Callable[[], Any], least: float = 0.0) -> None:
        """Runs a section, if there are that many seconds left."""
        if self.left() < least:
            self.say(f"{name} is left out: {self.left():.0f} s are left, it needs {least:.0f}")
            self.found["failures"].append({"what": name, "error": "no time was left", "causes": []})
            self.write()
            return
        self.say(f"-- {name}")
        self.attempt(name, work)

    def apart(self, name: str) -> None:
        """Runs a section in a process of its own, whose rows and failures become this one's."""
        with tempfile.TemporaryDirectory() as folder:
            options = ["--child", "--results", folder, "--minutes", str(self.left() / 60), "--only", f"{name};"]
            subprocess.run([sys.executable, "-m", "benchmarks.gpu", *options], check=False, timeout=self.left())
            found = json.loads((Path(folder) / "gpu.json").read_text(encoding="utf-8"))
        for section, rows in found.items():
            if isinstance(rows, list):
                self.found.setdefault(section, []).extend(rows)
        self.write()

    def write(self) -> None:
        """All that was found so far, as JSON."""
        (self.folder / "gpu.json").write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
