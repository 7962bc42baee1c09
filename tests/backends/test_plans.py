"""What a plan and the worker that reads it say of a field that is missing, unknown or misspelt."""

import pytest
from numba import carray

from backends.numba_kernels.runtime.launch import PlanType, worker

PLAN = PlanType("source rows", optional="residual")


@worker(PLAN)
def misspelt_worker(part, plans):
    plan = carray(plans, 1)[0]
    for _ in range(plan.rows):
        plan.source += plan.row


@worker(PLAN)
def right_worker(part, plans):
    plan = carray(plans, 1)[0]
    plan.source += plan.rows


def test_fields_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^the plan lacks rows, source$"):
        right_worker.plan(residual=1)
    with pytest.raises(TypeError, match=r"^the plan has no field columns; it has source, rows, residual$"):
        right_worker.plan(source=1, rows=1, columns=1)
    assert right_worker.plan(source=1, rows=2).tolist() == [1, 2, 0]


def test_a_worker_that_reads_what_is_not_there_is_refused_as_it_is_compiled() -> None:
    assert right_worker.address
    message = r"^test_plans.misspelt_worker reads plan.row, which its PlanType lacks; it has source, rows, residual$"
    with pytest.raises(TypeError, match=message):
        _ = misspelt_worker.address
