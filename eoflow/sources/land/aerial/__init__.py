"""Aerial scenes of towns on several dates: procedural, seeded, with the truth of what changed."""

from .scene import VERSION, Series, resolution, series

__all__ = ["VERSION", "Series", "resolution", "series"]
