"""Networks with weights (drawn at random here) through the same roads as the baselines."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from imagescenes import cloudy, pair, radar, read, series, tif

from eoflow import catalog
from eoflow.bands import BandSpec, SceneSchema
from eoflow.checkpoint_images import ImageCheckpoint, build, plain_normalizer, reduced, task_of
from eoflow.errors import BadInput
from eoflow.predict_images import tiles
from eoflow.predict_images.engine import engine, fewer_bits
from eoflow.predict_images.files import predict_files
from eoflow.predict_images.run import predict_dataset
from eoflow.runtime import multiplies_bfloat16
from eoflow.windows import Plan

OPTICAL = tuple(
    BandSpec(name=n, common_name=c, dtype="uint16", units="1", scale=1e-4, offset=-0.1, nodata=0)
    for n, c in (("B02", "blue"), ("B03", "green"), ("B04", "red"))
)
PHOTO = tuple(BandSpec(name=n, common_name=n, dtype="uint8", units="1") for n in ("red", "green", "blue"))
RADAR = tuple(BandSpec(name=n, dtype="float32", units="dB") for n in ("VV", "VH"))


def checkpoint(
    folder, name: str, bands: tuple[BandSpec, ...], targets: tuple[str, ...] = (), labels: dict | None = None, **options
) -> str:
    """A recipe's network with random weights as a checkpoint folder."""
    base = catalog.recipe(name)
    names = tuple(b.name for b in bands)
    patches = base.patches.model_copy(update={"bands": names, "targets": targets})
    if labels is not None:
        patches = patches.model_copy(update={"labels": patches.labels.model_copy(update=labels)})
    network = base.network.model_copy(update={"options": {**base.network.options, **options}})
    recipe = base.model_copy(update={"patches": patches, "network": network})
    schema = SceneSchema(bands=bands, sensor="made", level="made", tiles="", quality="")
    torch.manual_seed(0)
    signature = task_of(recipe).signature(recipe)
    normalizer = plain_normalizer(schema, names)
    model = build(recipe, signature, schema, normalizer)
    restored = normalizer.select(targets) if targets else None
    found = ImageCheckpoint(recipe, signature, reduced(schema, names, targets), normalizer, restored, model.eval())
    return str(found.save_pretrained(folder / name))


def small_windows(monkeypatch, core: int = 64):
    """Windows of a few pixels, so that a small scene has several."""

    def windows_of(model, shape, dates, bands):
        return Plan.of(shape, core=core, halo=int(model.halo), multiple=int(model.multiple)), 2

    monkeypatch.setattr(tiles, "windows_of", windows_of)
    monkeypatch.setattr("eoflow.predict_images.file_output.windows_of", windows_of)


def test_windows_of_a_network_give_what_the_whole_scene_gives(tmp_path, workspace, monkeypatch):
    model = checkpoint(tmp_path, "unet", RADAR, width=8, depth=2, norm="layer")
    scene = tif(tmp_path / "a_S1Hand.tif", radar((200, 170)))
    predict_files("segmentation", [scene], model=model, out=tmp_path / "w", workspace=workspace)
    small_windows(monkeypatch)
    report = predict_files("segmentation", [scene], model=model, out=tmp_path / "s", workspace=workspace)
    assert report.windows == 12
    assert report.model == "unet"
    whole, parts = (read(tmp_path / f / "a_S1Hand_prob.tif")[0][0] for f in "ws")
    inner = (slice(100, 156), slice(100, 156))  # far from the scene's edge, across the seams of the windows
    np.testing.assert_allclose(parts[inner], whole[inner], atol=1e-4)


def test_change_by_a_network_on_photographs(tmp_path, workspace):
    model = checkpoint(tmp_path, "siamese-unet", PHOTO)
    before, after = pair(tmp_path)
    out = tmp_path / "c.tif"
    report = predict_files("change-detection", [before, after], model=model, out=out, workspace=workspace)
    values, profile, _ = read(tmp_path / "c.tif")
    assert values.shape == (1, 60, 80)
    assert set(np.unique(values)) <= {0, 1}
    assert profile["count"] == 1
    assert report.model == "siamese-unet"
    radar_scene = tif(tmp_path / "a_S1Hand.tif", radar())
    with pytest.raises(BadInput, match="red"):
        predict_files("change-detection", [radar_scene, tif(tmp_path / "b_S1Hand.tif", radar(seed=1))], model=model,
                      out=tmp_path / "d.tif", workspace=workspace)  # fmt: skip
    assert not (tmp_path / "d.tif").exists()


def test_every_pair_of_a_series_with_what_it_was_and_what_it_became(tmp_path, workspace):
    cloudy(workspace)
    ground = {"ground": "cover", "ground_classes": ("water", "field", "town")}
    model = checkpoint(
        tmp_path, "changestar", OPTICAL, labels=ground, classes=3, width=8, features=16, d=8, blocks=(1, 1, 1, 1)
    )
    report = predict_dataset("change-detection", "s2", model=model, every=True, workspace=workspace)
    ds = xr.open_zarr(report.path, group="tiles/A", mask_and_scale=False)
    assert {"class", "probability", "before", "after"} <= set(ds.data_vars)
    assert ds["after"].attrs["flag_meanings"] == "water field town"
    assert ds.sizes["time"] > 1
    known = ds["class"].values != 255
    assert known.any()
    for name in ("before", "after"):
        assert ((ds[name].values != 255) == known).all()
        assert set(np.unique(ds[name].values[known])) <= {0, 1, 2}
    assert len({str(t) for t in ds["source_time"].values.ravel()}) == ds.sizes["time"] + 1


def test_a_filled_image_with_its_uncertainty(tmp_path, workspace):
    cloudy(workspace)
    model = checkpoint(tmp_path, "uncrtaints", OPTICAL, ("B02", "B03", "B04"))
    report = predict_dataset("cloud-removal", "s2", model=model, workspace=workspace, out=tmp_path / "o.zarr")
    ds = xr.open_zarr(report.path, group="tiles/A", mask_and_scale=False)
    raw = cloudy_values(workspace)
    np.testing.assert_array_equal(ds["B03"].values[0, 16:], raw[1, 16:])
    std = ds["std_B03"].values[0]
    assert (std[16:] == 0).all()
    assert (std[:16, :16] > 0).all()
    assert ds["std_factor"].dims == ("time",)
    assert [r["std_factor"] for r in report.tiles] == ds["std_factor"].values.tolist()
    free = predict_dataset("cloud-removal", "s2", model=model, workspace=workspace, out=tmp_path / "f.zarr", keep=False)
    other = xr.open_zarr(free.path, group="tiles/A", mask_and_scale=False)
    np.testing.assert_array_equal(other["B03"].values[0, :16, :16], ds["B03"].values[0, :16, :16])
    assert (other["std_B03"].values > 0).all()


def test_a_product_has_its_bands_in_the_order_of_the_cube(tmp_path, workspace):
    cloudy(workspace)
    bands = (OPTICAL[2], OPTICAL[0], OPTICAL[1])
    model = checkpoint(tmp_path, "uncrtaints", bands, ("B04", "B02", "B03"))
    report = predict_dataset("cloud-removal", "s2", model=model, workspace=workspace, out=tmp_path / "o.zarr")
    held = xr.open_zarr(report.path, group="tiles/A").attrs["eoflow_bands"]
    assert held == ["B02", "B03", "B04", "std_B02", "std_B03", "std_B04", "count", "filled"]


def cloudy_values(workspace) -> np.ndarray:
    from eoflow.cube import Cube

    return np.asarray(Cube.load(workspace, "s2").group("A")["B03"][:])


def test_a_network_says_what_it_filled_where_no_date_saw_the_ground(tmp_path, workspace):
    (tmp_path / "lost").mkdir()
    files, _ = series(tmp_path / "lost", dates=2, lost=True)
    names = ("B02", "B03", "B04")
    bands = tuple(b.model_copy(update={"offset": 0.0}) for b in OPTICAL)
    model = checkpoint(tmp_path, "uncrtaints", bands, names)
    report = predict_files("cloud-removal", files, model=model, out=tmp_path / "f.tif", workspace=workspace)
    assert (read(tmp_path / "f_filled.tif")[0] == 1).all()
    assert (read(tmp_path / "f_count.tif")[0] == 0).all()
    values, _, described = read(tmp_path / "f.tif")
    assert described == names
    assert values.dtype == np.uint16
    with rasterio.open(tmp_path / "f_std.tif") as f:
        assert f.count == 3
        assert np.isfinite(f.read()).all()
    text = "\n".join(report.messages)
    assert "the model's guess" in text
    assert "No date saw the ground" in text


def test_on_dask_the_product_is_the_same(tmp_path, workspace, monkeypatch):
    from distributed import Client, LocalCluster

    cloudy(workspace)
    model = checkpoint(tmp_path, "uncrtaints", OPTICAL, ("B02", "B03", "B04"))
    small_windows(monkeypatch, core=16)
    one = predict_dataset("cloud-removal", "s2", model=model, workspace=workspace, out=tmp_path / "1.zarr")
    how = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**how) as cluster, Client(cluster) as c:
        two = predict_dataset("cloud-removal", "s2", model=model, workspace=workspace, out=tmp_path / "2.zarr", dask=c)
    import xarray as xr

    a, b = (xr.open_zarr(r.path, group="tiles/A").load() for r in (one, two))
    xr.testing.assert_equal(a, b)
    assert one.windows == two.windows > 1


def test_fewer_bits_are_said_and_cost_little(tmp_path, workspace, monkeypatch, run_by):
    """The shipped network in 32, 16 and 8 bits: nearly the same map, and the difference is told."""
    pytest.importorskip("onnxruntime")
    fewer = {"int8": "8-bit convolutions"}
    if multiplies_bfloat16():
        fewer["bf16"] = "bfloat16 layers"
    scene = tif(tmp_path / "a_S1Hand.tif", radar((136, 120)))
    maps = {}
    for runtime in ("eager", "onnx", *fewer):
        run_by(runtime)
        small_windows(monkeypatch)
        report = predict_files("segmentation", [scene], model="flood-s1", out=tmp_path / runtime, workspace=workspace)
        assert [m.split(".")[0] for m in report.messages if "32 bits" in m] == [fewer[r] for r in fewer if r == runtime]
        maps[runtime] = read(tmp_path / runtime / "a_S1Hand_prob.tif")[0]
    assert np.nanmax(np.abs(maps["onnx"] - maps["eager"])) < 1e-4
    for runtime in fewer:
        difference = np.abs(maps[runtime] - maps["eager"])
        assert np.nanmax(difference) > 0
        assert np.nanmean(difference) < 0.01


def test_a_network_that_is_told_the_days_runs_in_every_runtime(tmp_path, workspace, run_by):
    pytest.importorskip("onnxruntime")
    (tmp_path / "in").mkdir()
    files, _ = series(tmp_path / "in", dates=3)
    images = {}
    for runtime in ("eager", "onnx", "int8"):
        run_by(runtime)
        out = tmp_path / f"{runtime}.tif"
        report = predict_files("cloud-removal", files, model="clouds-s2", out=out, workspace=workspace)
        assert len([m for m in report.messages if "8-bit convolutions" in m]) == (runtime == "int8")
        images[runtime] = 1e-4 * read(out)[0].astype(float)
    np.testing.assert_allclose(images["onnx"], images["eager"], rtol=0, atol=1.5e-4)  # stored in steps of 1e-4
    assert 0 < np.nanmax(np.abs(images["int8"] - images["eager"])) < 0.05


def test_a_network_without_stages_says_that_it_runs_in_torch(run_by):
    from eoflow.models.images import ImageSignature
    from eoflow.models.temporal_attention import TemporalAttention

    class Whole(TemporalAttention):
        staged = False

    model, plan = Whole(ImageSignature(4, 4, 0)), Plan((64, 64), (64, 64), 0)
    run_by("onnx")
    runs, note = engine(model, "", None, None, plan)
    assert runs is model
    assert "Run in torch and not by onnx" in note
    assert fewer_bits(model) == []


def test_a_scene_without_a_value_needs_no_calibration(tmp_path, workspace, run_by):
    pytest.importorskip("onnxruntime")
    scene = tif(tmp_path / "b_S1Hand.tif", np.full((2, 64, 64), np.nan, "f4"))
    run_by("int8")
    report = predict_files("segmentation", [scene], model="flood-s1", out=tmp_path / "o", workspace=workspace)
    assert any("no pixel could be judged" in m for m in report.messages)
