"""Labelled images in a folder, as users have them: samples without a cube, for training and for verification."""

from __future__ import annotations

from eoflow.prepare.chips.opening import SPLITS, chip_bands, open_chips
from eoflow.prepare.chips.sets import ChipSet
from eoflow.prepare.chips.values import ChipOptions, options_of

__all__ = ["SPLITS", "ChipOptions", "ChipSet", "chip_bands", "open_chips", "options_of"]
