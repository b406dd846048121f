"""Learning rate in closed form; every scan of an epoch once, however many processes share it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdoct_utils.learn.schedules import batches_per_epoch, epoch_batches, learning_rate_factor, steps_per_epoch


def test_learning_rate_in_closed_form():
    factor = [learning_rate_factor(step, 110, 10, 0.01) for step in range(111)]
    np.testing.assert_allclose(factor[:10], [(step + 1) / 11 for step in range(10)])  # straight up, not from zero
    assert factor[10] == 1 and all(np.diff(factor[10:]) < 0)
    for step, expected in ((60, (1 + 0.01) / 2), (35, 0.01 + 0.99 * (2 + math.sqrt(2)) / 4), (110, 0.01)):
        assert factor[step] == pytest.approx(expected)  # half way down; cos 45 degrees; the floor
    assert learning_rate_factor(0, 1, 0, 0.1) == 1  # no warm-up, a single step
    assert learning_rate_factor(7, 5, 0, 0.1) == pytest.approx(0.1)  # past the end it stays on the floor


@settings(deadline=None, max_examples=60)
@given(
    n_scans=st.integers(1, 70), batch_size=st.integers(1, 9), accumulation=st.integers(1, 4),
    processes=st.integers(1, 3), epoch=st.integers(0, 3),
)  # fmt: skip
def test_every_scan_once_in_batches_no_larger_than_asked(n_scans, batch_size, accumulation, processes, epoch):
    if n_scans < processes:
        with pytest.raises(ValueError, match=f"{n_scans} training scans"):
            batches_per_epoch(n_scans, batch_size, processes)
        return
    shares = [epoch_batches(n_scans, batch_size, accumulation, 5, epoch, k, processes) for k in range(processes)]
    everything = np.concatenate([batch for share in shares for batches, _ in share for batch in batches])
    np.testing.assert_array_equal(np.sort(everything), np.arange(n_scans))
    assert {len(share) for share in shares} == {steps_per_epoch(n_scans, batch_size, accumulation, processes)}
    sizes = [len(batch) for share in shares for batches, _ in share for batch in batches]
    assert min(sizes) >= 1
    # A batch is one scan too large only where a process would otherwise have gone without any.
    assert max(sizes) <= max(batch_size, 2 if processes > 1 else 1)
    for step, (_, n_in_step) in enumerate(shares[0]):
        assert n_in_step == sum(len(batch) for share in shares for batch in share[step][0])


def test_two_processes_see_the_batches_of_one_with_twice_the_size():
    one = epoch_batches(50, 8, 2, seed=3, epoch=1)
    two = [epoch_batches(50, 4, 2, 3, 1, process, 2) for process in range(2)]
    for step, (batches, n_scans) in enumerate(one):
        for number, batch in enumerate(batches):
            np.testing.assert_array_equal(batch, np.concatenate([share[step][0][number] for share in two]))
        assert n_scans == two[0][step][1] == two[1][step][1]


def test_order_follows_from_seed_and_epoch_and_the_last_batch_is_not_a_tiny_one():
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate([batch for (batch,), _ in epoch_batches(40, 8, 1, seed, epoch)]).tolist()

    assert order(1, 0) == order(1, 0) and order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)
    assert [len(batch) for (batch,), _ in epoch_batches(33, 32, 1, 0, 0)] == [17, 16]

