import random

from hypothesis import given
from hypothesis import strategies as st

from actors.backoff import backoff_s, ceiling_s


def test_the_ceiling_doubles_until_its_bound():
    assert [ceiling_s(n, multiplier=2.0, max_s=30.0) for n in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_a_seed_fixes_the_whole_sequence():
    rng = random.Random(4711)
    drawn = [backoff_s(n, multiplier=2.0, rng=rng, max_s=60.0) for n in range(4)]
    twin = random.Random(4711)
    assert drawn == [twin.uniform(0, 2**n) for n in range(4)]


def test_jitter_is_full_so_that_a_fleet_spreads_over_the_whole_ceiling():
    rng = random.Random(1)
    drawn = [backoff_s(3, multiplier=2.0, rng=rng, max_s=60.0) for _ in range(1000)]
    assert min(drawn) < 0.1
    assert max(drawn) > 7.9
    assert 3.8 < sum(drawn) / len(drawn) < 4.2


@given(
    attempt=st.integers(0, 10**9), multiplier=st.floats(0.0, 1e6), max_s=st.floats(0.001, 1e6), seed=st.integers(0, 99)
)
def test_never_overflows_and_never_exceeds_its_bound(attempt, multiplier, max_s, seed):
    assert 0.0 <= backoff_s(attempt, multiplier=multiplier, rng=random.Random(seed), max_s=max_s) <= max_s
