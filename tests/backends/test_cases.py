"""No operation without cases, and no operation whose backward lacks the names of its gradients."""

import inspect

from backends import OPS
from tests.backends.cases import CASES


def test_every_operation_has_cases():
    assert set(CASES) == set(OPS)


def test_wrt_names_arguments_of_forward_and_only_where_there_is_a_backward():
    for name, op in OPS.items():
        assert set(op.wrt) <= set(inspect.signature(op.forward).parameters), name
        assert bool(op.wrt) == (op.backward is not None), name


def test_operations_are_filed_under_their_own_names():
    for name, op in OPS.items():
        assert name == op.name == op.forward.__name__
        assert op.backward is None or op.backward.__name__ == f"{name}_backward"
