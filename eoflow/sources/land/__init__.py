"""A seeded landscape that satellites look at: terrain, fields, forests, towns, seasons, clouds, floods, changes.

Everything is a function of (seed, tile, time); `World` is the way in, for the driver and for whoever needs the truth.
"""

from .cover import LandCover
from .tiles import Tile
from .world import World

__all__ = ["LandCover", "Tile", "World"]
