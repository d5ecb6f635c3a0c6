"""BandNormalizer: physical values of bands <-> numbers for a network, by a named scheme.

zscore        (x - mean) / std over the training pixels
percentile    low percentile -> 0, high percentile -> 1, clipped or not
constants     the documented numbers of a sensor (CONSTANTS): no statistics, the same for every dataset
db            10 log10 x of linear power, then zscore or percentile of that
none          physical values as they are
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog_patches import NormalizeRecipe
from eoflow.errors import BadInput, SchemaMismatch
from eoflow.prepare.normalize import Normalizer
from eoflow.prepare.scenes.statistics import BandStatistics

Array = np.ndarray[Any, np.dtype[Any]]
_SMALL = 1e-9

CONSTANTS: dict[tuple[str, str, str], tuple[float, float]] = {
    ("sentinel-2", "1", ""): (0.0, 1.0),
    ("landsat", "1", ""): (0.0, 1.0),
    ("landsat", "K", ""): (273.15, 50.0),
    ("sentinel-1", "dB", "vv"): (-25.0, 25.0),
    ("sentinel-1", "dB", "vh"): (-32.5, 32.5),
}
"""(sensor, units, band) -> (what becomes 0, how much becomes 1). Band "": every other one.

Reflectance of Sentinel-2 and Landsat: as it is, which is the customary stored number / 10000 once the offset of the
processing baseline is applied. Surface temperature: 50 K above freezing. Sentinel-1 backscatter: -25..0 dB (VV) and
-32.5..0 dB (VH) -> 0..1, the limits of Meraner et al. (2020), "Cloud removal in Sentinel-2 imagery using a deep
residual neural network and SAR-optical data fusion", ISPRS J. 166.
"""


@dataclass(frozen=True)
class BandNormalizer(Normalizer):
    """One affine map a band, after `db` where asked for; then clipped to low..high (None: not).

    channels: band names. units: physical units that go in. schemes: by band. See Normalizer for the rest.
    """

    units: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({len(self.channels), *(len(getattr(self, k)) for k in ("units", "schemes", "low", "high"))}) > 1:
            raise ValueError("a normaliser needs one number a channel")

    @classmethod
    def of(
        cls, recipe: NormalizeRecipe, schema: SceneSchema, names: Sequence[str],
        statistics: BandStatistics | None = None,
    ) -> BandNormalizer:  # fmt: skip
        """The normaliser of the named bands. statistics: of the training split, for the schemes that need them.

        Raises BadInput for a scheme without its statistics, a sensor without constants, `db` of what is no power,
        or a band without a value; SchemaMismatch for statistics of other bands.
        """
        rows = [_band(recipe, schema, schema.band(n), statistics) for n in names]
        columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True))
        mean, std, transforms, units, schemes, low, high = columns
        return cls(tuple(names), mean, std, std, transforms, units, schemes, low, high)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; floats survive the round trip exactly."""
        return {f.name: list(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> BandNormalizer:
        """Inverse of to_dict. Raises BadInput for a damaged one."""
        try:
            return cls(**{k: tuple(v) for k, v in d.items()})
        except (TypeError, ValueError) as e:
            raise BadInput("this is not a normaliser of bands", todo=str(e)) from None

    def select(self, channels: Sequence[Any]) -> BandNormalizer:
        """The same numbers for the named bands, in the order given. Raises SchemaMismatch for an unknown one."""
        names = [str(c) for c in channels]
        unknown = [c for c in names if c not in self.channels]
        if unknown:
            todo = f"it has {', '.join(self.channels)}"
            raise SchemaMismatch(f"the normaliser knows no {', '.join(unknown)}", todo=todo)
        at = [self.channels.index(c) for c in names]
        return BandNormalizer(**{f.name: tuple(getattr(self, f.name)[i] for i in at) for f in fields(self)})

    def require_units(self, schema: SceneSchema) -> None:
        """Raise SchemaMismatch unless the schema's bands of our names are in our units."""
        for name, units in zip(self.channels, self.units, strict=True):
            theirs = schema.band(name).units
            if theirs != units:
                raise SchemaMismatch(f"band {name} is in '{theirs}', and the normaliser was made for '{units}'",
                                     todo="ingest it in the same units")  # fmt: skip

    def encode(self, array: Any, channels: Iterable[Any] | None = None) -> Any:
        """(..., C, H, W) physical -> normalised, clipped; numpy or torch, floating dtype kept; NaN stays NaN.

        Raises SchemaMismatch if the channel axis does not fit, or `channels`, if given, are not ours in our order.
        """
        out = super().encode(array, channels)
        if not any(x is not None for x in (*self.low, *self.high)):
            return out
        shape = (-1, 1, 1)
        low = np.array([-np.inf if x is None else x for x in self.low])
        high = np.array([np.inf if x is None else x for x in self.high])
        if isinstance(out, np.ndarray):
            return np.clip(out, low.astype(out.dtype).reshape(shape), high.astype(out.dtype).reshape(shape))
        lowest, highest = (out.new_tensor(x.tolist()).reshape(shape) for x in (low, high))
        return out.clamp(lowest, highest)

    def encode_stored(self, stored: Array, schema: SceneSchema, out: Array | None = None) -> Array:
        """(..., C, H, W) stored values -> (..., C, H, W) float32, as `encode` of the physical ones.

        Scale, offset, mean and std are one multiplication and one addition; nodata is not looked at (mask it by
        quality).
        """
        return self.of_stored(schema)(stored, np.empty(stored.shape, np.float32) if out is None else out)

    def of_stored(self, schema: SceneSchema) -> Callable[[Array, Array], Array]:
        """`encode_stored` for many small arrays: a function of (stored, out)."""
        bands = [schema.band(n) for n in self.channels]
        scale, offset = np.array([b.scale for b in bands]), np.array([b.offset for b in bands])
        mean, std = np.array(self.mean), np.array(self.std)
        plain = not any(self.transforms)
        gain, shift = (scale / std, (offset - mean) / std) if plain else (scale, offset)
        gain, shift = (x.astype("f4")[:, None, None] for x in (gain, shift))
        pairs = zip(self.low, self.high, strict=True)
        limits = [(i, a, b) for i, (a, b) in enumerate(pairs) if a is not None or b is not None]

        def encode(stored: Array, out: Array) -> Array:
            np.multiply(stored, gain, out=out, casting="unsafe")
            np.add(out, shift, out=out)
            if not plain:
                with np.errstate(invalid="ignore", divide="ignore"):
                    out[...] = Normalizer.encode(self, out)
            for i, a, b in limits:
                np.clip(out[..., i, :, :], a, b, out=out[..., i, :, :])
            return out

        return encode


def transforms_of(recipe: NormalizeRecipe, bands: Iterable[BandSpec]) -> dict[str, str]:
    """Band -> `db`, of those whose scheme is that: what statistics are taken after."""
    return {b.name: "db" for b in bands if recipe.of(b.name) == "db"}


def needs_statistics(recipe: NormalizeRecipe, names: Iterable[str]) -> bool:
    """Whether any band is normalised by numbers of the data."""
    return any(recipe.of(n) not in ("constants", "none") for n in names)


def _band(
    recipe: NormalizeRecipe, schema: SceneSchema, band: BandSpec, statistics: BandStatistics | None
) -> tuple[float, float, str | None, str, str, float | None, float | None]:
    """(mean, std, transform, units, scheme, low, high) of one band."""
    scheme = recipe.of(band.name)
    if scheme == "none":
        return 0.0, 1.0, None, band.units, scheme, None, None
    if scheme == "constants":
        return (*_constants(schema.sensor, band), None, band.units, scheme, None, None)
    if scheme == "db" and band.units in ("dB", "K", "m", "degree"):
        raise BadInput(f"band {band.name} is in '{band.units}': no power that dB could be taken of",
                       todo="use zscore or percentile for it")  # fmt: skip
    if statistics is None or band.name not in statistics.names:
        raise SchemaMismatch(f"scheme '{scheme}' needs statistics of band {band.name}", todo="prepare the dataset")
    i = statistics.names.index(band.name)
    wanted = "db" if scheme == "db" else None
    if statistics.transforms.get(band.name) != wanted:
        raise SchemaMismatch(f"the statistics of {band.name} were taken {'without' if wanted else 'after'} dB",
                             todo="take them again for this recipe")  # fmt: skip
    if statistics.field.count[i] <= 0:
        raise BadInput("a band without a single usable value in the training split", where=f"band {band.name}",
                       todo="leave it out, or allow more quality classes")  # fmt: skip
    kind = recipe.after if scheme == "db" else scheme
    if kind == "zscore":
        mean, std = float(statistics.field.mean[i]), float(statistics.field.std[i])
        std = std if std > _SMALL * max(abs(mean), 1e-30) else 1.0
        return mean, std, wanted, band.units, scheme, None, None
    first, last = (float(statistics.percentile(q)[i]) for q in (recipe.low, recipe.high))
    limits = (0.0, 1.0) if recipe.clip else (None, None)
    return (first, (last - first) or 1.0, wanted, band.units, scheme, *limits)


def _constants(sensor: str, band: BandSpec) -> tuple[float, float]:
    family = next((s for s in ("sentinel-2", "sentinel-1", "landsat") if sensor.lower().startswith(s)), sensor)
    for key in ((family, band.units, band.name.lower()), (family, band.units, "")):
        if key in CONSTANTS:
            return CONSTANTS[key]
    known = ", ".join(sorted({f"{s} in '{u}'" for s, u, _ in CONSTANTS}))
    raise BadInput(f"there are no constants for band {band.name} of {sensor} in '{band.units}'",
                   where=f"known: {known}", todo="use zscore or percentile for it (normalize.bands)")  # fmt: skip
