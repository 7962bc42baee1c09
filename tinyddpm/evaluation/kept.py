"""What was measured of a run, kept in its folder for its page."""

import json
from pathlib import Path
from typing import Any

from tinyddpm.evaluation.quality import Distances, Quality, Shares
from tinyddpm.files import write_atomically
from tinyddpm.locks import hold

NAME = "evaluation.json"
# What a call may leave out, as it takes long; the rest is always measured
PARTS = ("quality", "bits")


def keep(run: Path, found: dict[str, Any]) -> None:
    """Writes what `tinyddpm evaluate --json` prints into a run's folder.

    A part that was left out now stays as it was measured before, if that was at the same step, on the same data.
    Raises InputError where another process writes to the folder, OSError that names the file.
    """
    with hold(run):
        before = read_evaluation(run)
        if before is not None and all(before.get(key) == found.get(key) for key in ("step", "data")):
            found = found | {part: before.get(part) for part in PARTS if found.get(part) is None}
        write_atomically(run / NAME, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())


def read_evaluation(run: Path) -> dict[str, Any] | None:
    """What `keep` wrote, with null for parts that are missing; None where there is nothing, or no such JSON."""
    path = run / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        return None
    if not isinstance(found, dict) or not {"step", "data", "levels", "mean_loss"} <= found.keys():
        return None
    return dict.fromkeys(PARTS) | found


def kept_quality(found: dict[str, Any]) -> Quality | None:
    """The scores in what was read; None where there are none, or another version's."""
    try:
        values = found["quality"]
        samples, real = (Distances(**values[key]) for key in ("samples", "real"))
        sample_shares, real_shares = (Shares(**values[key]) for key in ("sample_shares", "real_shares"))
        draws = tuple(values["real_draws"])
        return Quality(samples, real, draws, values["frechet_bias"], sample_shares, real_shares)
    except (KeyError, TypeError):
        return None
