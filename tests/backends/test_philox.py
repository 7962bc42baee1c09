"""Philox4x32-10 against the published numbers, and the distributions drawn from it."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.ops.philox import open_unit, philox4x32, random_normal, random_uniform, words
from backends.testing.cases import counters

DRAWS = {"normal": (random_normal, "norm"), "uniform": (random_uniform, "uniform")}


def word(number: int) -> np.ndarray:
    return np.array([number], dtype=np.uint64)


def philox_of_integers(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 on Python integers, as section 3.3 of Salmon et al. 2011 words it: no array code."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


# kat_vectors of the Random123 distribution (Salmon et al. 2011), philox4x32 10
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]):
    c0, c1, c2, c3 = map(word, counter)
    assert tuple(int(w[0]) for w in philox4x32(np, (c0, c1, c2, c3), key)) == expected
    assert philox_of_integers(counter, key) == expected


@settings(max_examples=50, deadline=None)
@given(counter=counters(), count=st.integers(1, 12))
def test_words_are_numbered_by_block_stream_step_and_keyed_by_the_seed(counter: dict, count: int):
    seed, stream, step = counter["seed"], counter["stream"], counter["step"]
    drawn = words(np, count, seed, stream, step)
    assert (drawn.shape, drawn.dtype) == ((-(-count // 4), 4), np.uint64)
    for block, row in enumerate(drawn.tolist()):
        assert tuple(row) == philox_of_integers((block, 0, stream, step), (seed % 2**32, seed >> 32))


@settings(max_examples=50, deadline=None)
@given(counter=counters())
def test_uniforms_are_the_middles_of_cells_and_normals_come_in_pairs_from_two_of_them(counter: dict):
    u, _ = random_uniform(np, (8,), **counter, dtype=np.float64)
    assert u.tolist() == [(w + 0.5) / 2**32 for w in words(np, 8, **counter).ravel().tolist()]
    x, _ = random_normal(np, (8,), **counter, dtype=np.float64)
    # Box & Muller 1958, equation 1
    for i in range(0, 8, 2):
        radius, angle = math.sqrt(-2 * math.log(u[i])), 2 * math.pi * u[i + 1]
        assert x[i : i + 2] == pytest.approx([radius * math.cos(angle), radius * math.sin(angle)], rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", DRAWS)
def test_distribution(name: str, dtype: str):
    draw, law = DRAWS[name]
    x, _ = draw(np, (400, 500), seed=2024, stream=3, step=7, dtype=dtype)
    exact = getattr(scipy.stats, law)
    # Five standard deviations of the estimate; the numbers are fixed by the seed
    assert abs(x.mean(dtype=np.float64) - exact.mean()) < 5 * exact.std() / np.sqrt(x.size)
    fourth = exact.moment(4) if name == "normal" else 1 / 80
    assert abs(x.var(dtype=np.float64) - exact.var()) < 5 * np.sqrt((fourth - exact.var() ** 2) / x.size)
    assert scipy.stats.kstest(x.ravel(), law).pvalue > 1e-3


@pytest.mark.parametrize(("name", "column"), [("normal", 0), ("normal", 1), ("uniform", 0)])
def test_distribution_over_many_seeds(name: str, column: int):
    """The p-values of a right sampler are uniform; the columns are the cosines and sines of Box and Muller."""
    draw, law = DRAWS[name]
    samples = (draw(np, (4000, 2), seed, stream=0, step=0, dtype=np.float64)[0] for seed in range(200))
    p_values = [scipy.stats.kstest(sample[:, column], law).pvalue for sample in samples]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_the_two_normals_of_a_pair_are_unrelated():
    x, _ = random_normal(np, (100_000, 2), seed=5, stream=0, step=0, dtype=np.float64)
    for a, b in [(x[:, 0], x[:, 1]), (x[:, 0] ** 2, x[:, 1] ** 2), (x[:-1, 0], x[1:, 0])]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_the_tails_are_there():
    x, _ = random_normal(np, (1_000_000,), seed=1, stream=0, step=0)
    beyond = np.count_nonzero(np.abs(x) > 4)
    expected = 2 * scipy.stats.norm.sf(4) * x.size
    assert abs(beyond - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("name", DRAWS)
def test_other_seeds_streams_and_steps_give_unrelated_numbers(name: str):
    draw, _ = DRAWS[name]
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32, 0, 0), (2**63, 0, 0), (0, 2**31, 0), (0, 0, 2**31)]
    drawn = [draw(np, (20_000,), *place, dtype=np.float64)[0] for place in places]
    for (i, a), (j, b) in itertools.combinations(enumerate(drawn), 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size), (places[i], places[j])
        assert not np.any(a == b), (places[i], places[j])


@settings(max_examples=50, deadline=None)
@given(counter=counters(), few=st.integers(0, 20), more=st.integers(0, 20), name=st.sampled_from([*DRAWS]))
def test_the_first_numbers_do_not_depend_on_how_many_are_drawn(counter: dict, few: int, more: int, name: str):
    draw, _ = DRAWS[name]
    short, _ = draw(np, (few,), **counter)
    long, _ = draw(np, (few + more,), **counter)
    np.testing.assert_array_equal(short, long[:few])


@settings(max_examples=50, deadline=None)
@given(
    counter=counters(),
    row=st.sampled_from([(), (1,), (3,), (5, 7, 3), (4, 2)]),
    parts=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    first=st.sampled_from([0, 1, 5, 2**32 // 105, 2**40 + 1]),
    name=st.sampled_from([*DRAWS]),
)
def test_parts_drawn_apart_make_the_whole(counter: dict, row: tuple, parts: list[int], first: int, name: str):
    draw, _ = DRAWS[name]
    whole, _ = draw(np, (sum(parts), *row), **counter, first=first)
    places = first + np.cumsum([0, *parts[:-1]])
    apart = [draw(np, (n, *row), **counter, first=int(at))[0] for n, at in zip(parts, places, strict=True)]
    np.testing.assert_array_equal(whole, np.concatenate(apart))
    if first == 5:
        from_the_start, _ = draw(np, (5 + sum(parts), *row), **counter)
        np.testing.assert_array_equal(whole, from_the_start[5:])


def test_positions_beyond_32_bits_count_on_in_the_second_word_of_the_counter():
    """105 numbers an image: the block of the first number is counted by hand."""
    seed, stream, step, first = 2**40 + 5, 7, 9, 2**40 + 1
    u, _ = random_uniform(np, (1, 7, 5, 3), seed, stream, step, dtype=np.float64, first=first)
    for i, number in enumerate(u.ravel().tolist()):
        block, place = divmod(first * 105 + i, 4)
        word = philox_of_integers((block % 2**32, block >> 32, stream, step), (seed % 2**32, seed >> 32))[place]
        assert number == (word + 0.5) / 2**32


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(("shape", "first"), [((4,), -1), ((4,), 2**63 - 3), ((2, 105), 2**63 // 105 - 1)])
def test_positions_outside_63_bits_are_refused(name: str, shape: tuple[int, ...], first: int):
    draw, _ = DRAWS[name]
    row = math.prod(shape[1:])
    draw(np, shape, 0, 0, 0, first=2**63 // row - shape[0])
    with pytest.raises(ValueError, match=rf"^Philox takes positions from 0 to 2\^63 - 1, got {first * row} "):
        draw(np, shape, 0, 0, 0, first=first)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (5,), (0,), (3, 0, 2), (3, 5, 7)])
def test_shapes_and_types(name: str, shape: tuple[int, ...]):
    draw, _ = DRAWS[name]
    default, ctx = draw(np, shape, seed=1, stream=2, step=3)
    double, _ = draw(np, shape, seed=1, stream=2, step=3, dtype=np.float64)
    assert (default.shape, default.dtype, ctx) == (shape, np.float32, None)
    assert (double.shape, double.dtype) == (shape, np.float64)
    np.testing.assert_array_equal(default, double.astype(np.float32))


def test_a_shape_only_folds_the_row_of_numbers():
    flat, _ = random_normal(np, (24,), seed=1, stream=2, step=3)
    folded, _ = random_normal(np, (2, 3, 4), seed=1, stream=2, step=3)
    np.testing.assert_array_equal(folded.ravel(), flat)


def test_the_extreme_words_stay_inside_the_unit_interval_and_give_finite_normals():
    u = open_unit(np, np.array([0, 2**32 - 1], dtype=np.uint64))
    assert 0 < u[0] < u[1] < 1
    assert np.all(np.isfinite(np.sqrt(-2 * np.log(u))))
    assert np.all(u.astype(np.float32) > 0)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(
    "place",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"stream": -1},
        {"stream": 2**32},
        {"step": -1},
        {"step": 2**32},
    ],
)
def test_values_outside_the_counter_are_refused(name: str, place: dict[str, int]):
    draw, _ = DRAWS[name]
    ((key, value),) = place.items()
    with pytest.raises(ValueError, match=rf"{key}={value}\b"):
        draw(np, (4,), **{"seed": 0, "stream": 0, "step": 0, **place})


def test_the_largest_seed_stream_and_step_are_accepted():
    x, _ = random_normal(np, (4,), seed=2**64 - 1, stream=2**32 - 1, step=2**32 - 1)
    assert np.all(np.isfinite(x))
