"""The profile by kernels."""

from pathlib import Path

import pytest

from benchmarks import profile as profiling
from benchmarks.workloads import SMOKE


@pytest.mark.parametrize("kind", SMOKE)
def test_every_kernel_has_a_row_and_the_shares_add_up(kind: str, tmp_path: Path) -> None:
    (workload,) = SMOKE[kind]
    rows = profiling.rows(workload, 1, 2)
    names = {row["kernel"] for row in rows}
    assert {"matmul.forward_worker", "normalization.forward_worker", profiling.REST} <= names
    assert ("matmul.weight_gradient_worker" in names) == (kind == "train")
    assert len(names) == len(rows)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    milliseconds = [row["ms"] for row in rows[:-1]]
    assert milliseconds == sorted(milliseconds, reverse=True)
    profiling.plot(tmp_path / "profile.png", "profile", rows)
    assert (tmp_path / "profile.png").stat().st_size > 1000
