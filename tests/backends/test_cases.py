"""No operation without cases, and none that declares what its functions do not do."""

from hypothesis.strategies import SearchStrategy

from backends import OPS
from backends.testing import CASES, SHAPES
from backends.testing.registry import flaws


def test_every_operation_has_cases():
    for name in OPS:
        for strategy in (CASES[name], SHAPES[name]):
            assert isinstance(strategy, SearchStrategy)
    assert CASES.keys() == SHAPES.keys() == OPS.keys(), "cases of no operation"


def test_operations_are_filed_under_their_own_names_and_declare_what_is_there():
    for name, op in OPS.items():
        assert name == op.name
        assert list(flaws(op)) == []
