"""`open_chips`: a folder of labelled files -> samples of its splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog_images import ImageRecipe
from eoflow.catalog_patches import PatchRecipe, digest
from eoflow.errors import BadInput
from eoflow.prepare.chips import clouds, labels, layouts, pictures
from eoflow.prepare.chips.layouts import Chip, Date
from eoflow.prepare.chips.pictures import Array, Kept
from eoflow.prepare.chips.reading import CloudRule, Kind, Pixels, find, provides, readings
from eoflow.prepare.chips.sets import ChipSet, Loader, Packed, Places
from eoflow.prepare.chips.splits import divide
from eoflow.prepare.chips.values import ChipOptions, Reading, sidecar
from eoflow.prepare.moments import Moments
from eoflow.prepare.normalize import transform
from eoflow.prepare.scenes import histograms
from eoflow.prepare.scenes.normalize import BandNormalizer, needs_statistics, transforms_of
from eoflow.prepare.scenes.statistics import BandStatistics
from eoflow.prepare.scenes.windows import Layout

SPLITS = ("train", "valid", "test", "all")
HEAVIEST = 20.0


def open_chips(
    folder: str | Path, recipe: ImageRecipe, *, options: ChipOptions | None = None,
    fractions: tuple[float, float, float] | None = None, seed: int | None = None,
    normalizer: BandNormalizer | None = None, target_normalizer: BandNormalizer | None = None,
    rule: CloudRule | None = None, memory_mb: int | None = None,
) -> dict[str, ChipSet]:  # fmt: skip
    """The samples of a folder of labelled files by split: train, valid, test, and `all` of them.

    Which files belong together: see layouts. Which bands they have, in which units: see values; `options`, or a file
    chips.yaml in the folder with the same keys, say what the files do not. Radar is brought from power to decibel (or
    back) where the normaliser wants it.
    fractions, seed: of the split, else the recipe's. normalizer, target_normalizer: of a checkpoint; else made by the
    recipe's scheme from the train chips. rule: tells clouds where no mask does (models.cloudmask if left out).
    A band of the recipe may be meant by its common name (red is B04). Raises BadInput naming the file and what to do.
    """
    place, patches = Path(folder), recipe.patches
    if fractions is not None:
        try:
            split = patches.split.model_validate({**patches.split.model_dump(), "fractions": fractions})
        except ValueError as e:
            raise BadInput("the shares of train, valid and test do not add up to 1", where=str(fractions)) from e
        patches = patches.model_copy(update={"split": split})
    said = (options or ChipOptions()).over(sidecar(place)).checked()
    bands = patches.bands or ()
    asked = tuple(dict.fromkeys((*bands, *patches.targets)))
    found, series, notes = _found(place, recipe.task)
    kinds = readings(_dates(found, series), said, asked)
    have = [n for r in kinds.values() for n in r.names]
    named = {n: str(find(n, have)) for n in asked}
    if normalizer is not None:
        pairs = zip(normalizer.channels, normalizer.units, strict=True)
        wanted = {str(find(str(c), have)): u for c, u in pairs}
        kinds = {k: r.converted(wanted) for k, r in kinds.items()}
    inputs, targets = tuple(named[n] for n in bands), tuple(named[n] for n in patches.targets)
    pixels = Pixels(kinds, inputs, targets)
    told: dict[Path, Packed] = {}
    chosen = rule
    if recipe.task == "cloud-removal" and chosen is None:
        from eoflow.models.cloudmask import CloudRules

        chosen = CloudRules()
    for one in series:
        assert chosen is not None
        told |= clouds.qualities(pixels, one, chosen)
    if series:
        shares = clouds.listed(place, series, notes)
        found = [c for s in series for c in clouds.targets(s, told, patches, shares, notes)]
    chips = _usable(found, kinds, inputs, targets, notes)
    if not chips:
        raise BadInput("no date is clear enough to be a target" if series else "no chip has all the bands",
                       where=f"{folder}: {' '.join(notes)}",
                       todo="add dates with less cloud" if series else f"it takes {', '.join(asked)}")  # fmt: skip
    if patches.labels is not None and recipe.task != "cloud-removal":
        code = labels.coding([c.label for c in chips if c.label is not None], patches.labels.classes)
        notes += code.notes
        pixels = replace(pixels, coding=code)
    shapes = [_shape(c, kinds) for c in chips]
    telling = None if pixels.coding is None else [len(pixels.coding.classes.get(_label(c), ())) > 1 for c in chips]
    division, words = divide(chips, patches.split, seed, telling)
    notes += [n for r in kinds.values() if set(r.names) & {*inputs, *targets} for n in r.notes]
    notes.append(f"Split of {len(chips)} chips: {words}.")
    own = _renamed(patches, inputs, targets)
    loader = Loader(tuple(chips), pixels, own.dates, told, None if series else chosen)
    schema, sensors = _schema(kinds, inputs, targets, own)
    cache = Kept(loader, _memory(memory_mb))
    places = _windows(chips, shapes, own, loader, division["train"])
    mine = tuple(dict.fromkeys((*inputs, *targets)))
    if normalizer is None:
        made = _normalizer(own, schema, sensors, mine, cache, division["train"], notes)
        normal, target_normal = made.select(inputs), made.select(targets) if targets else None
    else:
        normal = _channels(normalizer, have, inputs)
        target_normal = _channels(target_normalizer or normalizer, have, targets) if targets else None
        normal.require_units(schema)
    identity = _identity(chips, kinds, place)
    out = {}
    for name in SPLITS:
        members = np.arange(len(chips)) if name == "all" else np.array(division[name], np.int64)
        numbers = np.flatnonzero(np.isin(places.chip, members))
        out[name] = ChipSet(
            loader, places, numbers, members, name, own, schema, normal, target_normal, identity, own.patch,
            list(dict.fromkeys(notes)), cache=cache,
        )  # fmt: skip
    return out


def _label(chip: Chip) -> Path:
    return chip.label or Path()


def _memory(megabytes: int | None) -> int:
    from eoflow.config import settings

    return megabytes or settings().memory_mb


def chip_bands(folder: str | Path, task: str, options: ChipOptions | None = None) -> tuple[SceneSchema, SceneSchema]:
    """The bands that most of the labelled chips of a folder have, and those that any has. Raises as open_chips."""
    place = Path(folder)
    found, series, _ = _found(place, task)
    kinds = readings(_dates(found, series), (options or ChipOptions()).over(sidecar(place)).checked(), ())
    sets = [set.intersection(*(set(provides(kinds, d)) for d in c.dates)) for c in found]
    sets += [set.intersection(*(set(provides(kinds, d)) for d in s.dates)) for s in series]
    counts = {n: sum(n in s for s in sets) for r in kinds.values() for n in r.names}
    every = tuple(n for n, k in counts.items() if k)
    most = tuple(n for n in every if counts[n] == max(counts.values()))
    return tuple(_schema(kinds, names, (), None)[0] for names in (most, every))  # type: ignore[return-value]


def _dates(chips: Sequence[Chip], series: Sequence[layouts.Series]) -> list[Date]:
    """Every date with its files."""
    own = [d for c in chips for d in (*c.dates, *([c.target] if c.target else []))]
    return own + [d for s in series for d in s.dates]


def _found(folder: Path, task: str) -> tuple[list[Chip], list[layouts.Series], list[str]]:
    """Chips, or places of a series."""
    if task in ("segmentation", "synthesis"):
        found = layouts.segmentation(folder)
    elif task == "change-detection":
        found = layouts.change(folder)
    elif task == "cloud-removal":
        pairs = layouts.pairs(folder)
        if pairs is None:
            series, notes = layouts.series(folder)
            return [], series, notes
        found = pairs
    else:
        found = layouts.alone(folder)
    return layouts.renamed(found.chips), [], found.notes


def _usable(
    chips: Sequence[Chip], kinds: Mapping[Kind, Reading], inputs: tuple[str, ...], targets: tuple[str, ...],
    notes: list[str],
) -> list[Chip]:  # fmt: skip
    """The chips whose files have all bands; the others are noted."""
    out: list[Chip] = []
    lacking: list[Chip] = []
    for chip in chips:
        fine = all(set(inputs) <= set(provides(kinds, d)) for d in chip.dates)
        fine = fine and (chip.target is None or set(targets) <= set(provides(kinds, chip.target)))
        (out if fine else lacking).append(chip)
    if lacking and out:
        some = ", ".join(c.name for c in lacking[:4]) + (" ..." if len(lacking) > 4 else "")
        notes.append(f"left out, {len(lacking)} chips without all of {', '.join(inputs)}: {some}")
    return out


def _shape(chip: Chip, kinds: Mapping[Kind, Reading]) -> tuple[int, int]:
    """(rows, columns); raises BadInput, by the headers alone, where files of a chip differ."""
    first: tuple[Path, tuple[int, int]] | None = None
    needed: list[Path] = [chip.label] if chip.label is not None else []
    dates: list[Date] = [*chip.dates, *([chip.target] if chip.target else [])]
    for date in dates:
        needed += [f for w, f in date.files.items() if provides(kinds, Date({w: f}))]
        needed += [date.mask] if date.mask is not None else []
    for path in needed:
        shape = pictures.header(path).shape
        if first is not None and shape != first[1]:
            a, b = first[1], shape
            raise BadInput(
                f"two files of one chip have different sizes: {a[0]} x {a[1]} and {b[0]} x {b[1]} pixels",
                where=f"{first[0]}, {path}", todo="bring them to one pixel grid first (rio warp, gdalwarp)",
            )  # fmt: skip
        first = first or (path, shape)
    assert first is not None
    return first[1]


def _renamed(patches: PatchRecipe, inputs: tuple[str, ...], targets: tuple[str, ...]) -> PatchRecipe:
    """The recipe with the names of the bands as the chips have them."""
    if len(set(inputs)) != len(inputs):
        raise BadInput("two bands of the recipe mean the same band of the chips", where=", ".join(inputs))
    return patches.model_copy(update={"bands": inputs, "targets": targets})


def _schema(
    kinds: Mapping[Kind, Reading], inputs: tuple[str, ...], targets: tuple[str, ...],
    patches: PatchRecipe | None,
) -> tuple[SceneSchema, dict[str, str]]:  # fmt: skip
    """The bands as samples have them, and the sensor of each."""
    specs: dict[str, BandSpec] = {}
    sensors: dict[str, str] = {}
    for name in dict.fromkeys((*inputs, *targets)):
        for reading in kinds.values():
            if name not in reading.names:
                continue
            spec = reading.spec(name)
            if name in specs and specs[name].units != spec.units:
                raise BadInput(f"band {name} is in {specs[name].units} in some files and in {spec.units} in others",
                               todo="keep files of one kind in a folder, or say units and scale")  # fmt: skip
            specs.setdefault(name, spec)
            sensors.setdefault(name, reading.sensors[reading.names.index(name)])
    bands = list(specs.values())
    if patches is not None and patches.labels is not None and patches.labels.band not in specs:
        bands.append(BandSpec(name=patches.labels.band, dtype="int16", units="1", nodata=-1))
    both = "+".join(dict.fromkeys(sensors.values()))
    return SceneSchema(bands=tuple(bands), sensor=both, level="chips", tiles="{}", quality="{}"), sensors


def _windows(
    chips: Sequence[Chip], shapes: Sequence[tuple[int, int]], patches: PatchRecipe, loader: Loader, train: Sequence[int]
) -> Places:
    """Every window of every chip that has a label (or enough of a clear target)."""
    rows: list[tuple[Array, Array, Array]] = []
    counts: list[Array] = []
    classes = len(patches.labels.classes) if patches.labels else 0
    for number, (chip, shape) in enumerate(zip(chips, shapes, strict=True)):
        ys, xs = Layout(shape, patches.patch, patches.step).origins
        keep, n = np.ones(ys.size, bool), patches.patch
        tally = np.zeros((ys.size, max(classes, 1)))
        if loader.pixels.coding is not None and chip.label is not None:
            found = loader.pixels.coding.read(chip.label)
            for w, (y, x) in enumerate(zip(ys, xs, strict=True)):
                part = found[y : y + n, x : x + n]
                tally[w] = np.bincount(part[part >= 0], minlength=classes)[:classes]
            keep = tally.sum(1) > 0
        elif chip.target is not None and not chip.clear:
            packed = loader.quality.get(chip.target.first)
            if packed is not None:
                keep = clouds.clear_windows(packed.values(), ys, xs, n) >= patches.min_valid
        rows.append((np.full(int(keep.sum()), number), ys[keep], xs[keep]))
        counts.append(tally[keep])
    of, y, x = (np.concatenate(c) for c in zip(*rows, strict=True))
    weight = np.ones(of.size, np.float32)
    if patches.balance == "classes" and classes:
        weight = _balanced(np.concatenate(counts), np.isin(of, train))
    return Places(of, y, x, weight)


def _balanced(counts: Array, train: Array) -> Array:
    """Weights by the classes in a sample, mean 1 over training; as for sets of patches of a cube."""
    if not train.any():
        return np.ones(len(counts), np.float32)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    frequency = share[train].mean(axis=0)
    raw = (share / np.where(frequency > 0, frequency, np.inf)).sum(axis=1)
    raw = np.clip(raw / raw[train].mean(), 1 / HEAVIEST, HEAVIEST)
    return np.asarray(raw / raw[train].mean(), np.float32)


def _normalizer(
    patches: PatchRecipe, schema: SceneSchema, sensors: Mapping[str, str], names: tuple[str, ...], cache: Kept,
    train: Sequence[int], notes: list[str],
) -> BandNormalizer:  # fmt: skip
    """By the recipe's scheme, from the usable pixels of the train chips where it needs statistics."""
    statistics = None
    if needs_statistics(patches.normalize, names):
        statistics = _statistics(patches, schema, names, cache, train)
    parts = []
    for name in names:
        own = schema.model_copy(update={"sensor": sensors[name]})
        parts.append(BandNormalizer.of(patches.normalize, own, (name,), statistics).to_dict())
    joined: dict[str, Any] = {k: [v for p in parts for v in p[k]] for k in parts[0]}
    return BandNormalizer.from_dict(joined)


def _statistics(
    patches: PatchRecipe, schema: SceneSchema, names: tuple[str, ...], cache: Kept, train: Sequence[int]
) -> BandStatistics:
    bands = tuple(schema.band(n) for n in names)
    transforms = transforms_of(patches.normalize, bands)
    field = [Moments.empty(())] * len(bands)
    counts = np.zeros((len(bands), histograms.BINS), np.int64)
    inputs = patches.bands or ()
    good = [int(q) for q in patches.classes]
    for number in train:
        one = cache.get(int(number))
        usable = np.isin(one.quality, good)
        for i, name in enumerate(names):
            if name in inputs:
                x = one.inputs[:, inputs.index(name)][usable]
            else:
                x = one.target[patches.targets.index(name)][np.isin(one.target_quality, good)]
            x = x[np.isfinite(x)]
            counts[i] += histograms.histogram(x)
            y = transform(x.astype(np.float64), transforms.get(name))
            if x.size:
                field[i] = field[i].merge(Moments.of(y, axis=0))
    rows = np.stack([m.to_array() for m in field], axis=1)
    return BandStatistics(bands, Moments.from_array(rows), counts, transforms, len(train))


def _channels(normalizer: BandNormalizer, have: Sequence[str], names: Sequence[str]) -> BandNormalizer:
    """The numbers of a checkpoint for the named bands of the chips, whichever of their names it knows them by."""
    known = {str(find(str(c), have)): c for c in normalizer.channels}
    return replace(normalizer.select([known.get(n, n) for n in names]), channels=tuple(names))


def _identity(chips: Sequence[Chip], kinds: Mapping[Kind, Reading], folder: Path) -> str:
    """Hash of names, sizes and both ends of all files, and how they are read."""
    files: list[Path] = []
    for c in chips:
        for d in (*c.dates, *([c.target] if c.target else [])):
            files += [*d.files.values(), *([d.mask] if d.mask else [])]
        files += [c.label] if c.label else []
    rows = []
    for path in sorted(set(files)):
        h = hashlib.blake2b(digest_size=8)
        with path.open("rb") as f:
            size = path.stat().st_size
            h.update(f.read(1 << 14))
            f.seek(max(0, size - (1 << 14)))
            h.update(f.read())
        rows.append([str(path.relative_to(folder)), size, h.hexdigest()])
    how = [[list(k), list(r.names), list(r.units), list(r.scale), list(r.offset), list(r.convert)]
           for k, r in sorted(kinds.items())]  # fmt: skip
    return digest([rows, how])
