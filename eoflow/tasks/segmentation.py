"""Segmentation: the bands of one date in, a class for each pixel out (water and land, say)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eoflow.errors import BadInput
from eoflow.models.thresholds import BandThresholds, Otsu, WaterIndex, WaterThreshold
from eoflow.tasks.images import ClassTask, position

if TYPE_CHECKING:
    from eoflow.bands import BandSpec, SceneSchema
    from eoflow.catalog_images import ImageRecipe
    from eoflow.prepare.scenes.normalize import BandNormalizer

GREEN, NIR, SWIR = ("green", "b03", "b3"), ("nir", "nir08", "b08", "b8", "b8a"), ("swir16", "b11")
POLARISATIONS = {"vv": -15.0, "vh": -22.0}
"""Backscatter of open water lies below these, in dB: round values of the literature for C band."""


class SegmentationTask(ClassTask):
    """See ImageTask. Labels are those of the date; unusable pixels have none."""

    name = "segmentation"
    baselines = ("otsu", "band-thresholds", "ndwi")

    def check_recipe(self, recipe: ImageRecipe) -> None:
        """See ImageTaskBase."""
        super().check_recipe(recipe)
        if len(self.class_names(recipe)) < 2:
            raise BadInput("a segmentation needs two classes or more", where=f"recipe {recipe.name}")

    def options(
        self, network: type, recipe: ImageRecipe, schema: SceneSchema, normalizer: BandNormalizer
    ) -> dict[str, Any]:
        """Of the thresholds: which band is which, and the way back to physical units."""
        if not issubclass(network, WaterThreshold):
            return {}
        bands = [schema.band(n) for n in normalizer.channels]
        out: dict[str, Any] = {"scale": list(normalizer.std), "offset": list(normalizer.mean)}
        given, where = recipe.network.options, f"recipe {recipe.name}, network {recipe.network.name}"
        if issubclass(network, Otsu):
            return out if {"channel", "index"} & given.keys() else {**out, **_otsu(bands, where)}
        if issubclass(network, WaterIndex):
            return out if {"first", "second"} <= given.keys() else {**out, **_index(bands, where)}
        if issubclass(network, BandThresholds) and "channels" not in given:
            return {**out, **_decibels(bands, normalizer, where)}
        return out


def _otsu(bands: list[BandSpec], where: str) -> dict[str, Any]:
    """Radar: the first polarisation, water below. Optical: the water index, water above."""
    radar = position(bands, *POLARISATIONS)
    return {"channel": radar} if radar is not None else {"index": list(_index(bands, where).values())}


def _index(bands: list[BandSpec], where: str) -> dict[str, int]:
    green, infrared = position(bands, *GREEN), position(bands, *NIR)
    infrared = position(bands, *SWIR) if infrared is None else infrared
    if green is None or infrared is None:
        raise BadInput("a water index needs green and near (or short-wave) infrared", where=where,
                       todo=f"the bands are {', '.join(b.name for b in bands)}")  # fmt: skip
    return {"first": green, "second": infrared}


def _decibels(bands: list[BandSpec], normalizer: BandNormalizer, where: str) -> dict[str, Any]:
    found = {p: i for p in POLARISATIONS if (i := position(bands, p)) is not None}
    if not found:
        raise BadInput("thresholds of backscatter need VV or VH", where=where,
                       todo=f"the bands are {', '.join(b.name for b in bands)}")  # fmt: skip
    for i in found.values():
        if normalizer.units[i] != "dB" and normalizer.transforms[i] != "db":
            raise BadInput(f"thresholds are in dB, and band {bands[i].name} is normalised in '{normalizer.units[i]}'",
                           where=where, todo="patches.normalize.scheme: db")  # fmt: skip
    return {"channels": list(found.values()), "thresholds": [POLARISATIONS[p] for p in found]}
