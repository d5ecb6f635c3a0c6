"""Equivalent number of looks: by its formula, by blocks, and where the flat areas are not known."""

from __future__ import annotations

import numpy as np
import pytest

from eoflow.models.looks import enl, estimated_looks, local_enl
from eoflow.verify.speckle import speckled


def test_enl_is_its_formula_over_what_is_marked_and_finite():
    z = np.array([[1.0, 2.0, 4.0], [np.nan, 100.0, np.inf]])
    where = np.array([[True, True, True], [True, False, True]])
    values = np.array([1.0, 2.0, 4.0])
    assert enl(z, where) == pytest.approx(values.mean() ** 2 / values.var(ddof=1))
    assert np.isnan(enl([np.nan, 3.0]))
    assert enl([2.0, 2.0, 2.0]) == np.inf
    assert enl(z * 50, where) == pytest.approx(enl(z, where))


def test_local_enl_by_blocks():
    z = speckled(np.ones((70, 50)), 3.0, np.random.default_rng(3))
    z[:16, :12] = np.nan
    found = local_enl(z, 16)
    assert found.shape == (4, 3)
    assert np.isnan(found[0, 0])
    assert found[2, 1] == pytest.approx(enl(z[32:48, 16:32]))
    with pytest.raises(ValueError, match="window"):
        local_enl(z, 1)


@pytest.mark.parametrize("looks", [1.0, 4.4, 20.0])
def test_looks_are_estimated_where_fields_have_edges(looks):
    levels = np.random.default_rng(7).uniform(0.1, 10, (8, 8))
    shifted = np.roll(np.kron(levels, np.ones((32, 32))), (5, 9), (0, 1))  # the fields' edges cut through many blocks
    assert estimated_looks(speckled(shifted, looks, np.random.default_rng(4)), 16) == pytest.approx(looks, rel=0.2)
    assert np.isnan(estimated_looks(np.full((40, 40), np.nan)))
