"""Uncertainties of several members, against their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxseg import uncertainty

MAPS = {
    "predictive_entropy": lambda p: special.entr(p.mean(0)).sum(-1),
    "expected_entropy": lambda p: special.entr(p).sum(-1).mean(0),
    "mutual_information": lambda p: special.rel_entr(p, p.mean(0)).sum(-1).mean(0),
}


def members(spread, shape=(5, 3, 4, 6), seed=0):
    """Probabilities in float64 that sum to 1, about which members differ by a `spread`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=shape[1:])
    return special.softmax(2 * logits + spread * rng.normal(size=shape), -1)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 10.0])
def test_definitions(name, spread):
    probs = members(spread)
    found = getattr(uncertainty, name)(jnp.asarray(probs, jnp.float32))
    assert found.dtype == jnp.float32
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found, MAPS[name](probs), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("spread", [1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3])
def test_small_disagreements_keep_their_digits(spread):
    """Where the difference of entropies in float32 has none left."""
    probs = members(spread).astype(np.float32)
    expected = MAPS["mutual_information"](probs.astype(np.float64))
    found = uncertainty.mutual_information(probs)
    # The mean has an error of 2^-24, which tells by its square.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-13)
    if spread == 1e-4:
        difference = uncertainty.predictive_entropy(probs) - uncertainty.expected_entropy(probs)
        assert np.max(np.abs(difference / expected - 1)) > 1


def test_the_series_meets_the_definition():
    """Two members about where one is changed for the other, a relative change of 1/4."""
    change = np.linspace(0.249, 0.251, 41, dtype=np.float32)
    middle = np.float32(0.4)
    one, other = middle * (1 + change), middle * (1 - change)
    probs = np.stack([np.stack([one, 1 - one], -1), np.stack([other, 1 - other], -1)])
    expected = MAPS["mutual_information"](probs.astype(np.float64))
    np.testing.assert_allclose(uncertainty.mutual_information(probs), expected, rtol=2e-6)


def test_certain_members():
    """Of probabilities 0 and 1: all finite; members that contradict each other share log 2."""
    probs = jnp.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    expected = [0.0, np.log(2)]
    np.testing.assert_allclose(uncertainty.predictive_entropy(probs), expected, rtol=1e-6)
    np.testing.assert_allclose(uncertainty.mutual_information(probs), expected, rtol=1e-6)
    assert uncertainty.expected_entropy(probs).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", MAPS)
def test_finite_and_never_negative(name):
    """Also of the smallest numbers that there are, whose mean underflows to 0."""
    smallest = np.float32(1e-45)
    rows = [[1.0, 0.0], [1.0, smallest], [1.0, 1e-38], [0.5, 0.5], [0.0, 1.0], [1.0 - 1e-7, 1e-7]]
    rows = np.array(rows, np.float32)
    pairs = np.stack([np.repeat(rows, 6, 0), np.tile(rows, (6, 1))])
    many = np.concatenate([pairs, pairs[:1], pairs[:1]])
    for probs in (pairs, many):
        found = np.asarray(getattr(uncertainty, name)(probs))
        assert np.all(np.isfinite(found))
        assert np.all(found >= 0)


def test_one_member_disagrees_with_nobody():
    probs = members(1.0, (1, 7, 5)).astype(np.float32)
    assert uncertainty.mutual_information(probs).tolist() == [0.0] * 7
    np.testing.assert_array_equal(
        uncertainty.predictive_entropy(probs), uncertainty.expected_entropy(probs)
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", MAPS)
def test_it_computes_in_float32(name, dtype):
    probs = jnp.asarray(members(1.0), dtype)
    found = getattr(uncertainty, name)(probs)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, MAPS[name](np.asarray(probs, np.float64)), rtol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_no_pixel_axes_and_vmap(name):
    function = getattr(uncertainty, name)
    probs = members(1.0).astype(np.float32)
    assert function(probs[:, 0, 0]).shape == ()
    each = jax.vmap(function, in_axes=1)(probs)
    np.testing.assert_allclose(each, function(probs), rtol=1e-6)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(
    ("probs", "error", "words"),
    [
        (np.ones((2, 3), int), TypeError, r"probs are int\d+\[2, 3\], but must be probabilities"),
        (np.ones(3, np.float32), ValueError, r"probs are \[3\], but must be \[members"),
        (np.ones((0, 4, 3), np.float32), ValueError, "need at least one member"),
    ],
)
def test_no_probabilities_of_members(name, probs, error, words):
    with pytest.raises(error, match=words):
        getattr(uncertainty, name)(probs)
