"""How peers take turns."""

from benchmarks.measure import TURN, runs_in_a_turn


def test_a_turn_is_filled_and_has_one_run_at_the_least():
    assert runs_in_a_turn([3.0, 2.0]) == 1
    assert runs_in_a_turn([TURN, 2 * TURN]) == 1
    assert runs_in_a_turn([0.1, 0.01], turn=0.055) == 6
