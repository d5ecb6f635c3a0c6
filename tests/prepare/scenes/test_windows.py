from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.prepare.scenes.windows import Counter, Layout, padded, starts

SIZES = st.integers(1, 97)


@settings(max_examples=30, deadline=None)
@given(height=SIZES, width=SIZES, patch=st.integers(1, 40), data=st.data())
def test_windows_cover_every_pixel_and_stay_inside(height, width, patch, data):
    layout = Layout((height, width), patch, data.draw(st.integers(1, patch)))
    seen = np.zeros((height, width), int)
    for y, x in zip(*layout.origins, strict=True):
        assert y >= 0
        assert x >= 0
        assert y + patch <= height or (y == 0 and height < patch)
        assert x + patch <= width or (x == 0 and width < patch)
        seen[y : y + patch, x : x + patch] += 1
    assert (seen > 0).all()
    assert len(set(zip(*layout.origins, strict=True))) == layout.pixels.size
    assert layout.pixels.sum() == seen.sum()


@pytest.mark.parametrize(("size", "patch", "step", "expected"), [
    (256, 256, 256, [0]), (100, 256, 256, [0]), (257, 256, 256, [0, 1]), (512, 256, 256, [0, 256]),
    (97, 32, 16, [0, 16, 32, 48, 64, 65]), (97, 89, 89, [0, 8]),
])  # fmt: skip
def test_the_last_window_is_shifted_inside(size, patch, step, expected):
    assert starts(size, patch, step).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(height=SIZES, width=SIZES, patch=st.integers(1, 40), strip=st.integers(1, 30), data=st.data())
def test_counts_equal_those_of_each_window(height, width, patch, strip, data):
    layout = Layout((height, width), patch, data.draw(st.integers(1, patch)))
    values = np.random.default_rng(height * 100 + width).integers(0, 5, (height, width)).astype(np.uint8)
    table = np.full(256, -1, np.int16)
    table[[0, 1, 2, 4]] = [0, 1, 1, 2]  # 1 and 2 are one class, 3 is not counted
    counter = Counter(layout, table)
    for a in range(0, height, strip):
        counter.add(a, values[a : a + strip])
    counts = counter.windows()
    for k, (y, x) in enumerate(zip(*layout.origins, strict=True)):
        window = values[y : y + patch, x : x + patch]
        assert counts[k].tolist() == [(window == 0).sum(), np.isin(window, [1, 2]).sum(), (window == 4).sum()]
    chosen = np.arange(0, layout.pixels.size, 2)
    covered = np.zeros(values.shape, bool)
    for y, x in zip(*(o[chosen] for o in layout.origins), strict=True):
        covered[y : y + patch, x : x + patch] = True
    ey, ex = layout.edges
    cells = layout.coverage(chosen)
    np.testing.assert_array_equal(np.repeat(np.repeat(cells, np.diff(ey), axis=0), np.diff(ex), axis=1), covered)


def test_padding_goes_below_and_to_the_right():
    values = np.ones((2, 3, 4), np.int16)
    out = padded(values, 6, -1)
    assert out.shape == (2, 6, 6)
    assert (out[:, :3, :4] == 1).all()
    assert out.sum() == 24 - (2 * 36 - 24)
    assert padded(out, 6, 0) is out
