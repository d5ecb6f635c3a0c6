from __future__ import annotations

import numpy as np
import pytest

from eoflow.sources import grib_messages as gm
from eoflow.sources.base import AssetCorrupt

VALUES = np.random.default_rng(1).normal(280, 10, (19, 36))


@pytest.fixture(scope="module")
def two(make_grib):
    return [make_grib("t", VALUES + i, level=500, level_type="isobaricInhPa", hour=6 * i) for i in range(2)]


def test_frames_skip_padding(two):
    data = two[0] + b"\0" * 18 + two[1] + b"\n"
    assert list(gm.frames(data, "f")) == [(0, len(two[0])), (len(two[0]) + 18, len(two[1]))]


@pytest.mark.parametrize("edition", [1, 2])
@pytest.mark.parametrize("lost", [1, 4, 30, 200])
def test_a_cut_message_is_found(make_grib, edition, lost):
    m = make_grib("t", VALUES, level=500, level_type="isobaricInhPa", edition=edition)
    with pytest.raises(AssetCorrupt, match=r"message 2 at byte .* needs") as e:
        list(gm.frames((m + m)[:-lost], "f.grib"))
    assert "1 whole messages before it" in e.value.text()


def test_a_cut_at_the_first_letters_is_found(two):
    with pytest.raises(AssetCorrupt, match="cut off"):
        list(gm.frames(two[0] + b"GRI", "f"))
    with pytest.raises(AssetCorrupt, match="truncated"):
        list(gm.frames(two[0] + b"GRIB\0\0", "f"))


def test_a_lost_end_mark_and_no_message_are_found(two):
    with pytest.raises(AssetCorrupt, match="end mark 7777"):
        list(gm.frames(two[0][:-4] + b"7770", "f"))
    with pytest.raises(AssetCorrupt, match="no whole GRIB message"):
        list(gm.frames(b"nothing here", "f"))


def test_large_grib1_lengths(make_grib):
    big = np.random.default_rng(0).normal(size=(1201, 2400))
    m = make_grib("t", big, level=500, level_type="isobaricInhPa", edition=1)
    assert len(m) > 2**23
    assert [length for _, length in gm.frames(m + m, "f")] == [len(m), len(m)]


@pytest.mark.parametrize("edition", [1, 2])
@pytest.mark.parametrize("south_first", [False, True])
def test_headers_and_values(make_grib, edition, south_first):
    holes = VALUES.copy()
    holes[3, 4] = -1e9
    m = make_grib(
        "t",
        holes,
        level=850,
        level_type="isobaricInhPa",
        edition=edition,
        hour=6,
        step=12,
        missing=-1e9,
        south_first=south_first,
    )
    grids = {}
    (f,) = gm.headers(m, 0, grids, "f")
    assert (f.name, f.level_type, f.first, f.units) == ("t", "isobaricInhPa", 850.0, "K")
    assert f.valid - f.init == 12 * 3600
    assert np.datetime64(f.valid, "s") == np.datetime64("2024-03-01T18")
    grid = grids[f.grid]
    assert grid["lat"] == (np.linspace(-90, 90, 19) if south_first else np.linspace(90, -90, 19)).tolist()
    out = gm.arrange(gm.values(m, 0, "f"), 19, 36, grid["order"])
    assert np.isnan(out[3, 4])
    assert np.isnan(out).sum() == 1
    good = ~np.isnan(out)
    np.testing.assert_allclose(out[good], VALUES[good], atol=1e-3)


def test_fields_that_share_a_message_are_taken_apart(make_grib):
    """Sections 4 to 7 twice in one message, the second bitmap being `that of the field before`."""
    holes = VALUES.copy()
    holes[0] = -1e9
    u, v = (
        make_grib(n, holes + i, level=500, level_type="isobaricInhPa", missing=-1e9 + i) for i, n in enumerate("uv")
    )

    def sections(message):
        out, at = {}, 16
        while at < len(message) - 4:
            n = int.from_bytes(message[at : at + 4], "big")
            out[message[at + 4]] = message[at : at + n]
            at += n
        return out

    a, b = sections(u), sections(v)
    same = (6).to_bytes(4, "big") + bytes([6, 254])
    body = b"".join(a[n] for n in (1, 3, 4, 5, 6, 7)) + b[4] + b[5] + same + b[7]
    both = u[:8] + (16 + len(body) + 4).to_bytes(8, "big") + body + b"7777"
    fields = gm.headers(both, 0, {}, "f")
    assert [(f.name, f.part) for f in fields] == [("u", 0), ("v", 1)]
    for part, want in enumerate((holes, holes + 1)):
        out = gm.values(both, part, "f").reshape(19, 36)
        assert np.isnan(out[0]).all()
        np.testing.assert_allclose(out[1:], want[1:], atol=1e-3)
