"""What ranks ask of each other: shares, what they have in common, errors that end all of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import backends
from tests.tinyddpm.ranks.in_threads import Table, ThreadRanks, run
from tinyddpm.errors import InputError
from tinyddpm.ranks import Ranks, SharedError, check_alike, check_same_numbers, together


@given(count=st.integers(0, 300), size=st.integers(1, 40))
def test_shares_are_the_whole_in_order_and_as_equal_as_can_be(count: int, size: int):
    table = Table(size)
    shares = [ThreadRanks(rank, table).share(count) for rank in range(size)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


def test_a_process_by_itself_has_all_and_hears_itself():
    ranks, array = Ranks(), np.arange(3.0)
    assert ranks.share(7) == slice(0, 7)
    ranks.sum(array)
    ranks.fill_from_first(array)
    ranks.wait()
    assert array.tolist() == [0, 1, 2] == ranks.most(array).tolist()
    assert (ranks.gather("a"), ranks.from_first("a")) == (["a"], "a")
    check_alike(ranks, {"a": 1})
    check_same_numbers(ranks, "weights", array)
    with pytest.raises(InputError, match=r"^as it is$"), together(ranks):
        raise InputError("as it is")


class TestTogether:
    @pytest.mark.parametrize("failing", [(0,), (1,), (0, 1, 2), (2, 1)])
    @pytest.mark.parametrize("kind", [InputError, OSError, MemoryError, backends.BackendUnavailable])
    def test_an_error_of_one_is_an_error_of_all(self, failing: tuple[int, ...], kind: Any):
        def work(ranks: Ranks) -> None:
            with together(ranks):
                if ranks.rank in failing:
                    raise kind("the disk is full")

        found = run(3, work)
        assert [type(error) for error in found] == [SharedError] * 3
        first = min(failing)
        assert {str(error) for error in found} == {("" if first == 0 else f"rank {first}: ") + "the disk is full"}

    def test_that_of_rank_0_is_told_with_its_rank_where_others_have_another(self):
        def work(ranks: Ranks) -> None:
            with together(ranks):
                raise InputError(f"no {ranks.rank}")

        assert {str(error) for error in run(2, work)} == {"rank 0: no 0"}

    def test_other_errors_are_left_alone(self):
        def work(ranks: Ranks) -> None:
            with together(ranks):
                raise ZeroDivisionError

        assert [type(error) for error in run(2, work)] == [ZeroDivisionError] * 2

    def test_without_an_error_nothing_is_said(self):
        def work(ranks: Ranks) -> int:
            with together(ranks):
                return 7

        assert run(3, work) == [7, 7, 7]


class TestAlike:
    @pytest.mark.parametrize("odd", [0, 1, 2])
    def test_what_differs_is_named_with_its_rank(self, odd: int):
        def work(ranks: Ranks) -> None:
            check_alike(ranks, {"numpy": "2.4", "--lr": 1e-3 if ranks.rank == odd else 2e-3})

        mine, rank = ("0.002", 1) if odd == 0 else ("0.001", odd)
        theirs = "0.001" if odd == 0 else "0.002"
        assert {str(e) for e in run(3, work)} == {
            f"rank {rank} has --lr {mine}, rank 0 has --lr {theirs}; make them the same".replace(
                "rank 0 has --lr", "rank 0 has"
            )
        }

    def test_what_only_one_has(self):
        def work(ranks: Ranks) -> None:
            check_alike(ranks, {"a": 1} if ranks.rank else {"a": 1, "b": 2})

        assert {str(e) for e in run(2, work)} == {"rank 1 has b missing, rank 0 has 2; make them the same"}

    def test_what_is_the_same_passes(self):
        assert run(3, lambda ranks: check_alike(ranks, {"a": 1, "b": (1, "x")})) == [None] * 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_that_part_by_one_bit_are_noticed(dtype: str):
    def work(ranks: Ranks) -> None:
        array = np.ones(1000, dtype)
        check_same_numbers(ranks, "weights", array)
        if ranks.rank == 2:
            array[999] = np.nextafter(array[999], 2)
        check_same_numbers(ranks, "weights", array)

    found = run(4, work)
    assert {type(error) for error in found} == {SharedError}
    assert all(str(error).startswith("rank 2 no longer has the weights of rank 0") for error in found)
