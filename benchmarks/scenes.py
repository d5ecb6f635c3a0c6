"""Ingest of 200 COGs: eoflow (checks, ledger, quality, overviews, transactions) against odc-stac and rioxarray to Zarr.

    python -m benchmarks.scenes [--quick] [--repeat 1] [--json]

Twenty Sentinel-2-like scenes of ten 10 m bands (1098 x 1098, uint16, COG with 512 blocks, deflate with predictor), as
STAC items beside their files; everybody writes every pixel to a new store on the same disk and syncs it. `odc-stac`:
`odc.stac.load` and `to_zarr`. `rioxarray`: `open_rasterio` of each file, scenes concatenated along time, `to_zarr`.
All store chunks of one time and the whole tile (1098 x 1098): what eoflow chooses for so small a tile, and the fastest
of the others here (chunks of 512 are slower for both). The others run twice: as `to_zarr` packs by itself (zstd), and
(`-lz4`) told to use eoflow's codec, blosc-lz4 with bit shuffle, which is their best. They copy pixels and no more;
eoflow also writes an overview, quality, digests and the ledger, in a transaction that survives a power cut. Limits
beside it: `decode-loop`, decoding all files with rasterio one after the other, storing nothing; `decode`, the same in
as many threads as there are cores; and `decode+pack`, the least that anybody does who stores them: decoded in those
threads, packed by eoflow's codec, each chunk a file. Each run is a process of its own, after a tiny one that is not
counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Literal, cast

import numpy as np

from benchmarks import commandline
from benchmarks.scoring import peak_mb

PEERS = ("odc-stac", "rioxarray")
PEERS_LZ4 = ("odc-stac-lz4", "rioxarray-lz4")
LIMITS = ("decode-loop", "decode", "decode+pack")
CONTESTANTS = ("eoflow", *PEERS, *PEERS_LZ4, *LIMITS)
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SIZE, BLOCK, CRS, ORIGIN = 1098, 512, "EPSG:32633", (399_960.0, 5_000_040.0)


def make_source(folder: Path, scenes: int, size: int = SIZE, bands: tuple[str, ...] = BANDS) -> int:
    """COGs and `items.json` (an item collection) in `folder`; returns the bytes of all pixels."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    smooth = _field(rng, size)
    features = []
    for i in range(scenes):
        day = np.datetime64("2022-06-01") + 5 * i
        name = f"S2A_33TUL_{str(day).replace('-', '')}_0_L2A"
        assets = {}
        for k, band in enumerate(bands):
            values = 1000 + 1500 * (1 + 0.2 * k) * smooth + 60 * rng.standard_normal((size, size))
            path = folder / name / f"{band}.tif"
            path.parent.mkdir(exist_ok=True)
            options = {"driver": "COG", "compress": "deflate", "predictor": 2, "blocksize": BLOCK}
            with rasterio.open(
                path, "w", width=size, height=size, count=1, dtype="uint16", crs=CRS, nodata=0,
                transform=from_origin(*ORIGIN, 10, 10), **options,
            ) as f:  # fmt: skip
                f.write(np.clip(values, 1, 65535).astype("u2"), 1)
            assets[band] = {
                "href": f"./{name}/{band}.tif", "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}],
            }  # fmt: skip
        features.append(_item(name, str(day), assets, size))
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return scenes * len(bands) * size * size * 2


def _field(rng: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
    """Smooth texture between 0 and 1."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    k = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) + 1 / size
    field = np.fft.irfft2(spectrum * k**-1.6, s=(size, size))
    return (field - field.min()) / np.ptp(field)


def _item(name: str, day: str, assets: dict[str, Any], size: int) -> dict[str, Any]:
    from rasterio.warp import transform_bounds

    x, y = ORIGIN
    box = transform_bounds(CRS, "EPSG:4326", x, y - 10 * size, x + 10 * size, y)
    w, s, e, n = box
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a", "bbox": list(box),
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
        "geometry": {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]]},
        "properties": {
            "datetime": f"{day}T10:10:00Z", "platform": "sentinel-2a", "s2:processing_baseline": "04.00",
            "s2:mgrs_tile": "33TUL", "proj:epsg": 32633, "proj:shape": [size, size],
            "proj:transform": [10, 0, ORIGIN[0], 0, -10, ORIGIN[1]],
        },
        "assets": assets, "links": [],
    }  # fmt: skip


def entry_for(folder: Path, bands: tuple[str, ...] = BANDS) -> Path:
    """A catalog entry for the items in `folder`."""
    lines = [
        "kind: scenes", "name: bench", "title: benchmark", "sensor: sentinel-2", "level: L2A",
        f"source: {{driver: stac, args: {{items: {folder / 'items.json'}}}}}",
        "schedule: {start: 2022-01-01, end: 2023-12-31}", "tiles: {scheme: footprint}", "bands:",
        *[f"  {b}: {{units: '1', scale: 0.0001, offset: -0.1, nodata: 0, dtype: uint16}}" for b in bands],
    ]  # fmt: skip
    path = folder / "bench.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def store(contestant: str, source: Path, target: Path, bands: tuple[str, ...]) -> None:
    """What is timed."""
    if contestant == "eoflow":
        _eoflow(source, target, bands)
        return
    if contestant in LIMITS:
        _decode(source, target, threads=contestant != "decode-loop", pack=contestant == "decode+pack")
        return
    name = contestant.removesuffix("-lz4")
    ds = {"odc-stac": _odc, "rioxarray": _rio}[name](source, bands)
    ds.to_zarr(target, encoding={} if name == contestant else _packed(bands), consolidated=False)


def _eoflow(source: Path, target: Path, bands: tuple[str, ...]) -> None:
    import eoflow

    eoflow.ingest(str(entry_for(source, bands)), workspace=str(target), now="2024-01-01")


def _odc(source: Path, bands: tuple[str, ...]) -> Any:
    import odc.stac
    import pystac

    items = []
    for feature in json.loads((source / "items.json").read_text())["features"]:
        item = pystac.Item.from_dict(feature)
        for a in item.assets.values():
            a.href = str(source / a.href)
        items.append(item)
    chunks: dict[str, int | Literal["auto"]] = {"time": 1, "x": SIZE, "y": SIZE}
    ds = odc.stac.load(items, bands=list(bands), crs=CRS, resolution=10, chunks=chunks, anchor="edge")
    return ds.drop_attrs()


def _rio(source: Path, bands: tuple[str, ...]) -> Any:
    import xarray as xr
    from rioxarray import open_rasterio

    per_scene = []
    for feature in json.loads((source / "items.json").read_text())["features"]:
        fields = {
            b: cast("xr.DataArray", open_rasterio(source / feature["assets"][b]["href"], chunks={"x": SIZE, "y": SIZE}))
            .isel(band=0, drop=True).drop_attrs().drop_encoding()
            for b in bands
        }  # fmt: skip
        ds = xr.Dataset(fields).drop_vars("spatial_ref")
        per_scene.append(ds.expand_dims(time=[np.datetime64(feature["properties"]["datetime"][:10], "ns")]))
    return xr.concat(per_scene, "time")


def _packed(bands: tuple[str, ...]) -> dict[str, Any]:
    from eoflow.cube_layout import codec

    return {b: {"compressors": codec("u2")} for b in bands}


def _decode(source: Path, target: Path, *, threads: bool = True, pack: bool = False) -> None:
    import rasterio
    from numcodecs import Blosc

    codec = Blosc("lz4", 5, Blosc.BITSHUFFLE)

    def one(path: Path) -> None:
        with rasterio.open(path) as f:
            values = f.read(1)
        if pack:
            (target / f"{path.parent.name}-{path.stem}").write_bytes(codec.encode(values))

    target.mkdir()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if threads else 1) as pool:
        list(pool.map(one, sorted(source.glob("*/*.tif"))))


def child(contestant: str, source: Path, target: Path) -> None:
    """One run: a tiny one first (imports), then the clock; prints JSON."""
    import warnings

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        tiny = Path(name) / "tiny"
        tiny.mkdir()
        make_source(tiny, 1, 64, BANDS[:1])
        store(contestant, tiny, Path(name) / "target", BANDS[:1])
    os.sync()
    before, start = peak_mb(), time.perf_counter()
    store(contestant, source, target, BANDS)
    os.sync()
    seconds = time.perf_counter() - start
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    files = sum(len(f) for _, _, f in os.walk(target))
    out = {"seconds": seconds, "peak_mb": peak_mb(), "added_mb": peak_mb() - before, "files": files,
           "stored_mb": size / 1e6}  # fmt: skip
    print(json.dumps(out))


def run(quick: bool = False, repeat: int = 1) -> dict[str, Any]:
    """All contestants in turn; raises RuntimeError unless the cube holds the sources' values."""
    runs: dict[str, list[dict[str, Any]]] = {c: [] for c in CONTESTANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        scenes = 2 if quick else 20
        size = make_source(folder / "source", scenes)
        _decode(folder / "source", folder / "warm")
        for i in range(repeat):
            for c in CONTESTANTS:
                command = [sys.executable, "-m", "benchmarks.scenes", "--child", c, str(folder / "source")]
                done = subprocess.run([*command, str(folder / f"{c}-{i}")], check=True, capture_output=True, text=True)
                runs[c].append(json.loads(done.stdout.splitlines()[-1]))
        _compare(folder)
    table = {c: {k: median(r[k] for r in rs) for k in rs[0]} for c, rs in runs.items()}
    ours = table["eoflow"]["seconds"]
    return {
        "benchmark": "scenes", "megabytes": size / 1e6, "cogs": scenes * len(BANDS), "runs": table,
        "ratio": min(table[c]["seconds"] for c in PEERS) / ours, "goal": 1.5,
        "ratio_lz4": min(table[c]["seconds"] for c in PEERS_LZ4) / ours,
        **{f"share_of_{c}": table[c]["seconds"] / ours for c in LIMITS}, "decode_goal": 0.7,
    }  # fmt: skip


def _compare(folder: Path) -> None:
    import rasterio

    from eoflow.cube import Cube
    from eoflow.workspace import Workspace

    cube = Cube.load(Workspace(folder / "eoflow-0"), "bench")
    (tile,) = cube.tiles()
    ds = cube.open(tile)
    sources = sorted(p for p in (folder / "source").iterdir() if p.is_dir())
    if ds.sizes["time"] != len(sources):
        raise RuntimeError("the cube does not hold every scene")
    for i in (0, len(sources) - 1):
        for band in (BANDS[0], BANDS[-1]):
            with rasterio.open(sources[i] / f"{band}.tif") as f:
                if not np.array_equal(f.read(1), ds[band].isel(time=i).values):
                    raise RuntimeError(f"the cube differs from its source in {band}")


def show(out: dict[str, Any]) -> None:
    """Print the result for people."""
    print(f"ingest of {out['cogs']} COGs, {out['megabytes']:.0f} MB of pixels")
    for name, r in out["runs"].items():
        rate = out["megabytes"] / r["seconds"]
        print(f"  {name:13s} {r['seconds']:6.2f} s  {rate:5.0f} MB/s  peak {r['peak_mb']:5.0f} MB "
              f"(+{r['added_mb']:.0f})  {r['files']} files, {r['stored_mb']:.0f} MB stored")  # fmt: skip
    print(f"  ratio to the faster of the two: {out['ratio']:.2f} x as they are (goal {out['goal']:g} x), "
          f"{out['ratio_lz4']:.2f} x with eoflow's codec")  # fmt: skip
    shares = ", ".join(f"{c} {out[f'share_of_{c}']:.0%}" for c in LIMITS)
    print(f"  rate as a share of the limits': {shares} (goal: {out['decode_goal']:.0%} of decoding)")


def main() -> None:
    commandline.benchmark(__doc__, run, show, child, ("SOURCE", "TARGET"))


if __name__ == "__main__":
    main()
