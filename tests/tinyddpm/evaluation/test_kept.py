"""What `evaluate` keeps in a run's folder."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.tinyddpm.reporting.test_score_table import SCORE
from tests.tinyddpm.tiny_runs import tree
from tinyddpm.evaluation.kept import NAME, keep, kept_quality, read_evaluation


def found(step: int = 5, **parts: Any) -> dict[str, Any]:
    return {"data": "digits", "step": step, "levels": [], "mean_loss": 0.5, "quality": None, "bits": None} | parts


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path) is None
    keep(tmp_path, found(bits={"total": 3.5}))
    assert read_evaluation(tmp_path) == found(bits={"total": 3.5})
    assert sorted(tree(tmp_path)) == [NAME]


def test_a_part_left_out_stays_at_the_same_step_alone(tmp_path: Path) -> None:
    keep(tmp_path, found(bits={"total": 3.5}))
    keep(tmp_path, found(quality={"about": "new"}))
    assert read_evaluation(tmp_path) == found(bits={"total": 3.5}, quality={"about": "new"})
    keep(tmp_path, found(step=6))
    assert read_evaluation(tmp_path) == found(step=6)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 3}', '{"quality": 1}', "\xff"])
def test_what_is_none_is_not_read(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    assert read_evaluation(tmp_path) is None
    keep(tmp_path, found())
    assert read_evaluation(tmp_path) == found()


def test_scores_come_back(tmp_path: Path) -> None:

    keep(tmp_path, found(quality={"about": "x", "frechet_ratio": SCORE.frechet_ratio, **asdict(SCORE)}))
    kept = read_evaluation(tmp_path)
    assert kept is not None
    back = kept_quality(kept)
    assert back is not None
    assert json.dumps(asdict(back)) == json.dumps(asdict(SCORE))
    assert back.frechet_ratio == SCORE.frechet_ratio
    assert kept_quality(found()) is None
    assert kept_quality(found(quality={"samples": {"other": 1}})) is None
