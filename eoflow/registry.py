"""Plug-ins by entry point: sources, models, tasks and metrics, ours and those of outside packages alike.

An outside package adds one with, in its pyproject.toml,

    [project.entry-points."eoflow.models"]
    my-net = "my_package.net:MyNet"

Nothing is imported until it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Literal

from eoflow.errors import BadInput

Kind = Literal["models", "sources", "tasks", "metrics"]

BUILTIN: dict[str, dict[str, str]] = {
    "models": {
        "persistence": "eoflow.models.persistence:Persistence",
        "climatology": "eoflow.models.climatology:Climatology",
        "eof-ridge": "eoflow.models.eof_ridge:EofRidge",
        "puyun": "eoflow.models.puyun:PuYun",
        "unet": "eoflow.models.unet:UNet",
        "unetplusplus": "eoflow.models.unetplusplus:UNetPlusPlus",
        "farseg": "eoflow.models.farseg:FarSeg",
        "otsu": "eoflow.models.thresholds:Otsu",
        "band-thresholds": "eoflow.models.thresholds:BandThresholds",
        "ndwi": "eoflow.models.thresholds:WaterIndex",
        "siamese-unet": "eoflow.models.siamese_unet:SiameseUNet",
        "changestar": "eoflow.models.changestar:ChangeStar",
        "image-difference": "eoflow.models.difference:ImageDifference",
        "change-vector": "eoflow.models.difference:ChangeVector",
        "ir-mad": "eoflow.models.irmad:IrMad",
        "pmaa": "eoflow.models.pmaa:Pmaa",
        "uncrtaints": "eoflow.models.uncrtaints:UncrtainTs",
        "temporal-attention": "eoflow.models.temporal_attention:TemporalAttention",
        "median-composite": "eoflow.models.filling:MedianComposite",
        "mean-composite": "eoflow.models.filling:MeanComposite",
        "last-clear": "eoflow.models.filling:LastClear",
        "nearest-clear": "eoflow.models.filling:NearestClear",
        "linear-in-time": "eoflow.models.filling:LinearInTime",
        "merlin": "eoflow.models.merlin:Merlin",
        "lee": "eoflow.models.lee:Lee",
        "rsdit": "eoflow.models.rsdit:Synthesizer",
    },
    "sources": {
        "zarr": "eoflow.sources.zarr:ZarrSource",
        "netcdf": "eoflow.sources.netcdf:NetcdfSource",
        "grib": "eoflow.sources.grib:GribSource",
        "grib-index": "eoflow.sources.grib_index:GribIndexSource",
        "sample": "eoflow.sources.sample:SampleSource",
        "geotiff": "eoflow.sources.geotiff:GeotiffSource",
        "sample-scenes": "eoflow.sources.sample_scenes:SampleScenesSource",
        "sample-aerial": "eoflow.sources.sample_aerial:SampleAerialSource",
        "stac": "eoflow.sources.stac:StacSource",
        "safe": "eoflow.sources.safe:SafeSource",
        "landsat": "eoflow.sources.landsat:LandsatSource",
    },
    "tasks": {
        "forecast": "eoflow.tasks.forecast:ForecastTask",
        "segmentation": "eoflow.tasks.segmentation:SegmentationTask",
        "change-detection": "eoflow.tasks.change_detection:ChangeDetectionTask",
        "cloud-removal": "eoflow.tasks.cloud_removal:CloudRemovalTask",
        "despeckling": "eoflow.tasks.despeckling:DespecklingTask",
        "synthesis": "eoflow.tasks.synthesis:SynthesisTask",
    },
    "metrics": {
        "rmse": "eoflow.verify.metrics:Rmse",
        "bias": "eoflow.verify.metrics:Bias",
        "acc": "eoflow.verify.metrics:Acc",
        "mae": "eoflow.verify.metrics:Mae",
        "activity": "eoflow.verify.metrics:Activity",
        "activity_ratio": "eoflow.verify.metrics:ActivityRatio",
        "crps": "eoflow.verify.metrics:CrpsFair",
        "spread": "eoflow.verify.metrics:Spread",
        "ssr": "eoflow.verify.metrics:SpreadSkill",
    },
}


@lru_cache(maxsize=8)
def _table(kind: Kind) -> dict[str, str]:
    table = dict(BUILTIN[kind])
    for ep in entry_points(group=f"eoflow.{kind}"):
        if ep.name in BUILTIN[kind] and ep.value != BUILTIN[kind][ep.name]:
            raise BadInput(
                f"an installed package registers the {kind[:-1]} '{ep.name}', a name that eoflow itself uses",
                where=f"entry point eoflow.{kind}: {ep.name} = {ep.value}", todo="rename it in that package",
            )  # fmt: skip
        table[ep.name] = ep.value
    return table


def names(kind: Kind) -> list[str]:
    """Sorted registered names of a kind."""
    return sorted(_table(kind))


def nearest(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` or an empty string."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def load(kind: Kind, name: str) -> Any:
    """The class registered as `name`, or the one at `pkg.module:Class`. Raises BadInput with the near names."""
    target = name if ":" in name else _table(kind).get(name)
    if target is None:
        raise BadInput(
            f"no {kind[:-1]} called '{name}'{nearest(name, names(kind))}", todo=f"choose from {', '.join(names(kind))}"
        )
    module, _, attr = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attr)
    except (ImportError, AttributeError) as e:
        raise BadInput(f"cannot load the {kind[:-1]} '{name}'", where=target, todo=f"{type(e).__name__}: {e}") from e
