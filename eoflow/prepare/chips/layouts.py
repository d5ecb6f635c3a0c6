"""Which files of a folder belong together: image and label, before and after, cloudy and clear, dates of a place.

What a file is, a folder's name says first (`S1/`, `label/`, `A/`), then a word in the file's own name (`X_LabelHand`,
`X_cloudy_7`). What is left of its path without these words is the name of the chip.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np

from eoflow.errors import BadInput
from eoflow.prepare.chips.pictures import SUFFIXES
from eoflow.sources import geotiff_names as gn

LABEL = ("label", "labels", "labelhand", "mask", "masks", "gt", "groundtruth", "annotation", "annotations", "truth")
SOURCE = (
    "s1", "s2", "s1hand", "s2hand", "s1grd", "s2l1c", "s2l2a", "image", "images", "img", "imgs", "vv", "vh", "hh", "hv",
    "sar", "optical", "dem",
)  # fmt: skip
BEFORE = ("before", "t1", "pre", "im1", "img1", "image1", "time1")
AFTER = ("after", "t2", "post", "im2", "img2", "image2", "time2")
CLOUDY, CLEAR = ("cloudy", "input", "inputs"), ("target", "targets", "clear", "cloudfree", "cloudless")
CLOUDMASK = ("cloudmask", "mask", "masks", "clm", "clouds", "cloudmasks")
SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test",
    "testing": "test",
}  # fmt: skip
_WORD = r"(?<![A-Za-z0-9])(?:{})(?![A-Za-z0-9])"


@dataclass(frozen=True)
class Date:
    """The files of one date: image files by the word that tells them apart (`s1`), a mask of clouds, the time."""

    files: Mapping[str, Path]
    mask: Path | None = None
    time: np.datetime64 | None = None

    @property
    def first(self) -> Path:
        """For messages."""
        return next(iter(self.files.values()))


@dataclass(frozen=True)
class Chip:
    """One labelled image (or series). split: where the folder or the name says train, valid or test.

    place: the event or place in the name: what stands before its first number; empty for none.
    clear: a target whose pixels count as clear because the data set says so (pairs), not by a mask.
    """

    name: str
    dates: tuple[Date, ...]
    label: Path | None = None
    target: Date | None = None
    split: str | None = None
    clear: bool = True
    place: str = ""


@dataclass
class Found:
    """Chips, and what was left out of the folder and why."""

    chips: list[Chip]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    path: Path
    role: str
    word: str
    key: str
    split: str | None


def images(folder: Path) -> list[Path]:
    """Every image file below a folder, in order. Raises BadInput where there is none."""
    if not folder.is_dir():
        raise BadInput("there is no such folder of chips", where=str(folder), todo="give the folder of labelled files")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise BadInput("no image file in this folder", where=str(folder), todo=f"it needs {', '.join(SUFFIXES)} files")
    return found


def _strip(text: str, words: Sequence[str]) -> tuple[str, str]:
    """(text without the last of the words, that word in small letters or '')."""
    found = list(re.finditer(_WORD.format("|".join(map(re.escape, words))), text, re.IGNORECASE)) if words else []
    if not found:
        return text, ""
    m = found[-1]
    return gn.squeeze(text[: m.start()] + text[m.end() :]), m[0].lower()


def _sort(folder: Path, paths: Iterable[Path], folders: dict[str, tuple[str, ...]], words: dict[str, tuple[str, ...]],
          digits: dict[str, str] | None = None) -> list[_File]:  # fmt: skip
    """Role, word, key and split of every file. folders, words: names of folders, words in stems, by role.

    digits: role of the last number in a stem, for what has no role otherwise.
    """
    out = []
    for path in paths:
        *parts, stem = (*path.relative_to(folder).parts[:-1], path.stem)
        role, word, kept, split = "", "", [], None
        for part in parts:
            low = part.lower()
            mine = next((r for r, names in folders.items() if low in names), "")
            if low in SPLIT_WORDS:
                split = SPLIT_WORDS[low]
            if mine:
                role, word = mine, low
            else:
                kept.append(part)
        if role:
            stem, inner = _strip(stem, words.get(role, ()))
            word = inner if inner and role == "image" else word
        else:
            for mine, names in words.items():
                stripped, hit = _strip(stem, names)
                if hit:
                    role, word, stem = mine, hit, stripped
                    break
        if not role and digits and (m := re.search(r"[_\-. ]([12])$", stem)):
            role, stem = digits[m[1]], stem[: m.start()]
        first = re.split(r"[_\-. ]", stem)[0].lower()
        split = split or SPLIT_WORDS.get(first)
        key = "/".join([*(k for k in kept if k.lower() not in SPLIT_WORDS), stem or "chip"])
        in_folder = split is not None and split != SPLIT_WORDS.get(first)
        out.append(_File(path, role, word, f"{split}/{key}" if in_folder else key, split))
    return out


def _by_key(files: Iterable[_File]) -> dict[str, list[_File]]:
    out: dict[str, list[_File]] = defaultdict(list)
    for f in files:
        out[f.key].append(f)
    return dict(sorted(out.items()))


def _one(files: list[_File], what: str) -> Path:
    if len(files) > 1:
        raise BadInput(
            f"two files are {what} of one chip", where=f"{files[0].path}, {files[1].path}",
            todo="leave one of them out of the folder, or give them names that differ in more than that word",
        )  # fmt: skip
    return files[0].path


def _sources(files: list[_File]) -> dict[str, Path]:
    out: dict[str, Path] = {}
    for f in files:
        word = re.sub(r"^(image|img)s?$|hand$", "", f.word)
        if word in out:
            _one([f, _File(out[word], "", "", "", None)], "images")
        out[word] = f.path
    return dict(sorted(out.items()))


def _names(paths: Sequence[Path], most: int = 4) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(p.name for p in paths[:most]) + more


def segmentation(folder: Path) -> Found:
    """Images with their labels: `X_S1Hand.tif` and `X_LabelHand.tif`, `S1/` and `Label/`, `images/` and `masks/`."""
    roles = {"label": LABEL, "image": SOURCE}
    files = _sort(folder, images(folder), roles, roles)
    chips: list[Chip] = []
    alone: list[Path] = []
    widow: list[Path] = []
    for key, mine in _by_key(files).items():
        labels, rest = [f for f in mine if f.role == "label"], [f for f in mine if f.role != "label"]
        if labels and rest:
            date = Date(_sources(rest))
            chips.append(Chip(key, (date,), _one(labels, "labels"), split=mine[0].split))
        else:
            (alone if rest else widow).extend(f.path for f in mine)
    return _checked(folder, chips, alone, widow, "X_image.tif and X_label.tif, or folders images/ and masks/")


def change(folder: Path) -> Found:
    """Pairs with their masks: `A/ B/ label/`, `before/ after/ mask/`, `X_1 X_2 X_gt`, `X_before X_after X_label`."""
    folders = {"before": ("a", "1", *BEFORE), "after": ("b", "2", *AFTER), "label": (*LABEL, "change", "cm", "out")}
    words = {"before": BEFORE, "after": AFTER, "label": (*LABEL, "change", "cm")}
    files = _sort(folder, images(folder), folders, words, {"1": "before", "2": "after"})
    chips: list[Chip] = []
    alone: list[Path] = []
    widow: list[Path] = []
    for key, mine in _by_key(files).items():
        by = {r: [f for f in mine if f.role == r] for r in ("before", "after", "label")}
        if all(by.values()):
            dates = tuple(Date({"": _one(by[r], r)}) for r in ("before", "after"))
            chips.append(Chip(key, dates, _one(by["label"], "labels"), split=mine[0].split))
        else:
            (widow if not by["before"] and not by["after"] else alone).extend(f.path for f in mine)
    todo = "A/ (before), B/ (after) and label/ with equal names, or X_1, X_2 and X_gt"
    return _checked(folder, chips, alone, widow, todo)


def _checked(folder: Path, chips: list[Chip], alone: list[Path], widow: list[Path], todo: str) -> Found:
    notes = []
    if alone:
        notes.append(f"left out, {len(alone)} without a label (or without their pair): {_names(alone)}")
    if widow:
        notes.append(f"left out, {len(widow)} labels without an image: {_names(widow)}")
    if not chips:
        raise BadInput(
            "no image has a label here", where=f"{folder}: {'; '.join(notes) or 'nothing was recognised'}",
            todo=f"name the files so that they find each other: {todo}",
        )  # fmt: skip
    return Found(chips, notes)


def alone(folder: Path) -> Found:
    """Images without a label, each by itself: what learns from what it sees."""
    return Found([Chip(str(p.relative_to(folder).with_suffix("")), (Date({"": p}),), split=_said(folder, p))
                  for p in images(folder)])  # fmt: skip


def _said(folder: Path, path: Path) -> str | None:
    """The split that a folder's name says."""
    parts = path.relative_to(folder).parts[:-1]
    return next((SPLIT_WORDS[p.lower()] for p in parts if p.lower() in SPLIT_WORDS), None)


# -- clouds ------------------------------------------------------------------------------------------------------------


def pairs(folder: Path) -> Found | None:
    """Cloudy images with a clear one: `X_cloudy_7` and `X_7`, `7_input` and `7_target` (and `7_mask`); else None."""
    files = [_cloud_role(folder, p) for p in images(folder)]
    if not any(f.role == "cloudy" for f in files):
        return None
    chips, alone = [], []
    for key, mine in _by_key(files).items():
        by: dict[str, list[_File]] = {r: [f for f in mine if f.role == r] for r in ("cloudy", "clear", "mask", "radar")}
        if not by["cloudy"] or not by["clear"]:
            alone += [f.path for f in mine]
            continue
        turns = sorted({f.word.partition("|")[0] for f in by["cloudy"]})
        radar = {"s1": _one(by["radar"], "radar images")} if by["radar"] else {}
        mask = _one(by["mask"], "masks") if by["mask"] else None
        inputs = []
        for turn in turns:
            own = [f for f in by["cloudy"] if f.word.partition("|")[0] == turn]
            inputs.append(Date({"": _one(own, "cloudy images"), **radar}, mask if len(turns) == 1 else None))
        target = Date({"": _one(by["clear"], "clear images")})
        chips.append(Chip(key, tuple(inputs), target=target, split=mine[0].split))
    todo = "X_cloudy.tif and X_clear.tif, or X_input.tif, X_target.tif and X_mask.tif"
    return _checked(folder, chips, alone, [], todo)


def _cloud_role(folder: Path, path: Path) -> _File:
    parts = [*path.relative_to(folder).parts[:-1], path.stem]
    split = _said(folder, path)
    role, turn, kept = "", "", []
    for part in parts:
        for name, words in (("cloudy", CLOUDY), ("clear", CLEAR), ("mask", CLOUDMASK)):
            numbered = [w for w in words for w in (w, rf"{w}[0-9]")] if name == "cloudy" else list(words)
            m = list(re.finditer(_WORD.format("|".join(numbered)), part, re.IGNORECASE))
            if m:
                role, part = name, gn.squeeze(part[: m[-1].start()] + part[m[-1].end() :])
                turn = m[-1][0].lower()
        stripped, word = _strip(part, ("s1", "s2"))
        if word == "s1" and not role:
            role = "radar"
        kept.append(stripped)
    key = "/".join(k for k in kept if k and k.lower() not in SPLIT_WORDS) or "chip"
    return _File(path, role or "clear", turn, f"{split}/{key}" if split else key, split)


@dataclass(frozen=True)
class Series:
    """All dates of one place, in the order of time."""

    name: str
    dates: tuple[Date, ...]


def series(folder: Path) -> tuple[list[Series], list[str]]:
    """Dated images, by place: files whose names differ in the date (and a counter that runs with it) alone."""
    notes: list[str] = []
    by_place: dict[tuple[str, ...], dict[np.datetime64, dict[str, Path]]] = {}
    masks: dict[tuple[tuple[str, ...], np.datetime64], Path] = {}
    undated = []
    rows = []
    for path in images(folder):
        when = gn.time_of(str(path))
        if when is None:
            undated.append(path)
            continue
        rest, mask = _strip(gn.without_date(path.stem), CLOUDMASK)
        rest, word = _strip(rest, ("s1", "s2"))
        rows.append((path, when, mask, word, (str(path.parent.relative_to(folder)), *re.split(r"[_\-. ]+", rest))))
    counters = _counters([(key, when) for _, when, _, _, key in rows])
    for path, when, mask, word, key in rows:
        place = tuple(t for i, t in enumerate(key) if (len(key), key[0], i) not in counters)
        if mask:
            masks[place, when] = path
            continue
        at = by_place.setdefault(place, {}).setdefault(when, {})
        if word in at:
            _one([_File(path, "", "", "", None), _File(at[word], "", "", "", None)], "images of one date")
        at[word] = path
    if undated:
        notes.append(f"left out, {len(undated)} files without a date in the name: {_names(undated)}")
    out = []
    for place, dates in sorted(by_place.items()):
        words = {w for files in dates.values() for w in files}
        alone = "" if len(words) == 1 else None  # one kind of file: its word tells nothing
        made = tuple(
            Date({(w if alone is None else ""): p for w, p in sorted(files.items())}, masks.get((place, t)), t)
            for t, files in sorted(dates.items())
        )
        name = "_".join(t for t in place if t not in ("", ".")) or folder.name
        out.append(Series(gn.safe(name), made))
    if not out:
        raise BadInput(
            "no image with a date in its name, and no pair of a cloudy and a clear one", where=str(folder),
            todo="name the files PLACE_2024-05-01.tif, or X_input.tif and X_target.tif",
        )  # fmt: skip
    return out, notes


def _counters(rows: list[tuple[tuple[str, ...], np.datetime64]]) -> set[tuple[int, str, int]]:
    """(words in the name, folder, position) of the words that go with the date: one value a date, several in all."""
    seen: dict[tuple[int, str, int], dict[np.datetime64, set[str]]] = defaultdict(lambda: defaultdict(set))
    for key, when in rows:
        for i, token in enumerate(key[1:], 1):
            seen[len(key), key[0], i][when].add(token)
    return {
        at for at, by in seen.items()
        if len({t for v in by.values() for t in v}) > 1 and all(len(v) == 1 for v in by.values())
    }  # fmt: skip


def renamed(chips: list[Chip]) -> list[Chip]:
    """The chips with names that are usable everywhere, all different."""
    out, seen = [], set()
    for chip in chips:
        name = base = gn.safe(chip.name.replace("/", "_"))
        n = 2
        while name in seen:
            name, n = f"{base}-{n}", n + 1
        seen.add(name)
        place = chip.place or re.split(r"\d", PurePath(chip.name).name, maxsplit=1)[0].strip("_-. ").lower()
        out.append(replace(chip, name=name, place=place))
    return out
