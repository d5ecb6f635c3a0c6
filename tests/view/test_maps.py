from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from eoflow.errors import BadInput
from eoflow.view import maps
from eoflow.view.curves import pretty_units
from eoflow.view.style import line_styles, png


def titles(figure):
    return [t for ax in figure.axes for t in [ax.get_title(loc="left")] if t]


def drawn(figure):
    """PNG bytes of a picture that is not blank."""
    data = png(figure, dpi=50)
    assert imread(io.BytesIO(data))[..., :3].std() > 0.02
    return data


def test_forecast_beside_truth_and_error(run, truth):
    init = run.init_time.values[3]
    figure = maps.forecast_figure(run, truth, "z500", init=init, dataset="toy", model="puyun")
    shown = titles(figure)
    assert shown[0].startswith("initial state\n2001-01-04")
    assert [t.split("\n")[0] for t in shown if t.startswith("forecast")] == [f"forecast, day {d}" for d in (1, 3, 5)]
    assert shown.count("truth") == 3
    f = run.z.sel(init_time=init, level=500).isel(lead_time=1)
    error = f - truth.z.sel(level=500, time=init + np.timedelta64(1, "D"))
    w = np.cos(np.deg2rad(truth.latitude))
    expected = float(np.sqrt((error**2).weighted(w).mean()))
    label = next(t for t in shown if t.startswith("error"))
    assert float(label.split()[-1]) == pytest.approx(expected, rel=0.02)
    assert "toy puyun, z500: forecast from 2001-01-04" in figure.get_suptitle()
    drawn(figure)


def test_forecast_whose_truth_has_not_arrived(run, truth):
    late = truth.isel(time=slice(0, 9))
    figure = maps.forecast_figure(run, late, "msl", init=run.init_time.values[3])
    assert titles(figure).count("truth") == 1
    nothing = maps.forecast_figure(run, None, "msl")
    assert not [t for t in titles(nothing) if "truth" in t or "error" in t or "initial" in t]
    drawn(nothing)


def test_regions_small_grids_and_masks(run, truth):
    region = {"latitude": slice(2, 4), "longitude": slice(0, 3)}
    small = truth.isel(region).copy(deep=True)
    small["msl"][:, 0, 0] = np.nan
    drawn(maps.forecast_figure(run.isel(region), small, "msl", init=run.init_time.values[0]))


def test_unknown_field_names_those_there_are(run, truth):
    with pytest.raises(BadInput, match="z500, z850, msl"):
        maps.forecast_figure(run, truth, "t2m")
    assert maps.main_label(run) == "z500"


def test_ensemble_is_drawn_as_its_mean(worlds, truth):
    ens = worlds.cube(truth, "good", members=3)
    assert np.allclose(maps.field_of(ens, "msl"), ens.msl.mean("member"))


def test_hovmoller(run, truth):
    figure = maps.hovmoller_figure(run, truth, "z500", band=(20, 60))
    assert titles(figure) == ["forecast", "truth", "error"]
    drawn(figure)
    with pytest.raises(BadInput, match="no latitude"):
        maps.hovmoller_figure(run, truth, "z500", band=(26, 30))


def test_skill_and_activity_figures(card, tmp_path):
    figure = maps.skill_figure(card)
    assert len(figure.axes) == 9
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"puyun", "persistence", "climatology"}
    assert figure.axes[0].get_ylabel() == "RMSE (m² s⁻²)"
    line = next(x for x in figure.axes[0].get_lines() if x.get_label() == "puyun")
    assert line.get_ydata().tolist() == [r.value for r in card.series("puyun", "z500", "rmse")]
    assert drawn(figure) == png(maps.skill_figure(card), dpi=50), "the same figure gives the same bytes"
    assert len(maps.activity_figure(card, ["msl"]).axes) == 1


def test_skill_figure_file_has_a_stable_name(card, workspace):
    where = maps.skill_figure_file(card, workspace)
    assert where == str(workspace.path("scores", "toy", "skill.png"))
    assert workspace.path("scores", "toy", "skill.png").read_bytes().startswith(b"\x89PNG")


def test_coverage_counts_and_shows_the_worst(truth):
    times = np.arange(np.datetime64("2001-01-01", "ns"), np.datetime64("2003-01-01", "ns"), np.timedelta64(6, "h"))
    status = np.ones(times.size, int)
    status[10], status[-4:] = 4, 0
    words = ["never tried", "present", "partial", "absent at source", "failed"]
    figure = maps.coverage_figure(times, status, words=words, dataset="toy")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["never tried (4)", "present (2915)", "failed (1)"]
    cells = figure.axes[0].collections[0].get_array()
    assert (cells[0] == 4).sum() == 1
    assert "99.82 %" in figure.get_suptitle()
    drawn(figure)
    with pytest.raises(BadInput, match="nothing is expected"):
        maps.coverage_figure(times[:0], status[:0], words=words)


def test_models_keep_their_colours_and_units_are_pretty():
    styles = line_styles(["puyun", "persistence", "fuxi", "climatology"])
    assert len({s["color"] for s in styles.values()}) == 4
    assert line_styles(["climatology"])["climatology"] == styles["climatology"]
    assert pretty_units("m2 s-2") == "m² s⁻²"
    assert pretty_units("kg kg-1") == "kg kg⁻¹"
    assert pretty_units("1") == "1"
