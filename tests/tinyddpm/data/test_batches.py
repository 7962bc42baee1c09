"""Batches: every image once per epoch, a pure function of (seed, step), the same after a resume."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm.data import Batches, Dataset
from tinyddpm.errors import InputError


def numbered(count, side=1, labelled=True):
    """A set whose image i is filled with the byte i and whose label is i."""
    images = np.repeat(np.arange(count, dtype=np.uint8), side * side).reshape(count, side, side, 1)
    return Dataset("numbered", images, np.arange(count, dtype=np.int64) if labelled else None)


def numbers(x0):
    """Which images of `numbered` a batch holds, read from its pixels."""
    return np.rint((x0[:, 0, 0, 0] + 1) * 127.5).astype(int)


sizes = st.integers(1, 40)
seeds = st.integers(0, 2**64)


@settings(deadline=None)
@given(count=sizes, batch_size=st.integers(1, 90), seed=seeds, epochs=st.integers(1, 4))
def test_each_image_once_per_epoch(count, batch_size, seed, epochs):
    batches = Batches(numbered(count), batch_size, seed)
    steps = -(-epochs * count // batch_size)
    stream = np.concatenate([batches.at(step)[1] for step in range(steps)])
    assert len(stream) == steps * batch_size
    for epoch in range(epochs):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@settings(deadline=None)
@given(count=sizes, batch_size=st.integers(1, 90), seed=seeds, flip=st.booleans(), steps=st.lists(sizes))
def test_pure_function_of_seed_and_step(count, batch_size, seed, flip, steps):
    dataset = numbered(count)
    used = Batches(dataset, batch_size, seed, flip)
    for step in steps:
        x0, labels = used.at(step)
        fresh_x0, fresh_labels = Batches(dataset, batch_size, seed, flip).at(step)
        np.testing.assert_array_equal(x0, fresh_x0)
        np.testing.assert_array_equal(labels, fresh_labels)
        assert x0.shape == (batch_size, 1, 1, 1)
        assert x0.dtype == np.float32
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(numbers(x0), labels)


@settings(deadline=None)
@given(count=sizes, batch_size=sizes, seed=seeds, stop=sizes)
def test_resume_sees_the_same_data(count, batch_size, seed, stop):
    dataset = numbered(count)
    straight = Batches(dataset, batch_size, seed, flip=True)
    whole = [straight.at(step)[0] for step in range(stop + 3)]
    resumed = Batches(dataset, batch_size, seed, flip=True)
    for step in range(stop, stop + 3):
        np.testing.assert_array_equal(resumed.at(step)[0], whole[step])


def test_order_is_the_documented_permutation():
    order = np.concatenate([np.random.default_rng([5, epoch]).permutation(7) for epoch in range(3)])
    batches = Batches(numbered(7), 4, seed=5)
    stream = np.concatenate([batches.at(step)[1] for step in range(5)])
    np.testing.assert_array_equal(stream, order[:20])


def test_epochs_and_seeds_differ():
    dataset = numbered(50)
    first, second = (Batches(dataset, 50, seed=0).at(step)[1] for step in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Batches(dataset, 50, seed=1).at(0)[1])


def test_all_digits_of_a_seed_count():
    dataset = numbered(40)
    orders = [Batches(dataset, 40, seed).at(0)[0] for seed in (5, 5 + 2**32, 5 + 2**63)]
    assert not any(np.array_equal(a, b) for i, a in enumerate(orders) for b in orders[:i])


def test_without_labels():
    x0, labels = Batches(numbered(3, labelled=False), 2, seed=0).at(0)
    assert labels is None
    assert len(x0) == 2


def test_a_late_step_is_as_good_as_an_early_one():
    assert sorted(Batches(numbered(10), 10, seed=0).at(10**12)[1]) == list(range(10))


def leaning(count):
    """Images whose left column is bright: mirrored ones show it on the right."""
    images = np.zeros((count, 2, 3, 3), np.uint8)
    images[:, :, 0] = 255
    return Dataset("leaning", images, np.arange(count, dtype=np.int64))


def test_flip_mirrors_left_right_half_of_the_time():
    batches = Batches(leaning(400), 400, seed=3, flip=True)
    mirrored = []
    for step in range(4):
        x0, _ = batches.at(step)
        columns = x0[:, :, :, 0]
        upright = (columns == np.float32([1, -1, -1])).all(axis=(1, 2))
        turned = (columns == np.float32([-1, -1, 1])).all(axis=(1, 2))
        assert (upright ^ turned).all()
        mirrored.append(turned)
    share = np.mean(mirrored)
    # 1,600 coins: the standard deviation of their mean is 1/80.
    assert abs(share - 0.5) < 5 / 80
    assert not np.array_equal(mirrored[0], mirrored[1])


def test_flip_coins_do_not_depend_on_the_batch_size_and_leave_the_order():
    dataset = leaning(30)
    small, large = Batches(dataset, 7, 1, flip=True), Batches(dataset, 35, 1, flip=True)
    np.testing.assert_array_equal(np.concatenate([small.at(s)[0] for s in range(5)]), large.at(0)[0])
    np.testing.assert_array_equal(large.at(0)[1], Batches(dataset, 35, 1).at(0)[1])


def test_flip_coins_are_the_documented_ones():
    batches = Batches(leaning(50), 50, seed=8, flip=True)
    for epoch in range(3):
        turned = batches.at(epoch)[0][:, 0, 0, 0] < 0
        np.testing.assert_array_equal(turned, np.random.default_rng([8, epoch, 1]).random(50) < 0.5)


def test_no_flip_leaves_images_alone():
    x0, _ = Batches(leaning(20), 20, seed=0).at(0)
    assert (x0[:, :, 0] == 1).all()


def test_the_data_set_is_never_changed():
    dataset = leaning(20)
    before = dataset.images.copy()
    x0, _ = Batches(dataset, 20, seed=0, flip=True).at(0)
    x0[:] = 0
    np.testing.assert_array_equal(dataset.images, before)


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(10, 5, 2), (10, 4, 3), (10, 10, 1), (3, 8, 1)])
def test_steps_per_epoch(count, batch_size, steps):
    assert Batches(numbered(count), batch_size, 0).steps_per_epoch == steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must .* got 2.5"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": None}, "seed must .* got None"),
        ({"batch_size": True}, "batch_size must .* got True"),
        ({"dataset": numbered(0)}, "numbered has no images"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        Batches(**{"dataset": numbered(3), "batch_size": 2, "seed": 0, **arguments})


def test_bad_step():
    with pytest.raises(InputError, match="step must be a whole number of at least 0, got -1"):
        Batches(numbered(3), 2, 0).at(-1)


def test_numpy_integers_are_integers():
    batches = Batches(numbered(3), np.int64(2), np.uint32(7))
    np.testing.assert_array_equal(batches.at(np.int32(1))[0], Batches(numbered(3), 2, 7).at(1)[0])
