"""Windowed inference: any network over a scene of any size, seamless, in bounded memory, and resumable.

plan = Plan.of(source.shape, core=1024, halo=32, multiple=16)
infer(Network(model), source, "flood.zarr", [Layer("flood", dtype="uint8", nodata=255)], plan)
"""

from __future__ import annotations

from eoflow.windows.plan import Border, Box, Job, Plan, Window
from eoflow.windows.runner import Network, WindowReport, declared, infer, run, whole
from eoflow.windows.sinks import ArraySink, Layer, Partial, Sink, ZarrSink
from eoflow.windows.sources import (
    ArraySource,
    Cached,
    Input,
    RasterSource,
    Source,
    ZarrSource,
    cube_source,
    load,
    raster_source,
)

__all__ = [
    "ArraySink", "ArraySource", "Border", "Box", "Cached", "Input", "Job", "Layer", "Network", "Partial", "Plan",
    "RasterSource", "Sink", "Source", "Window", "WindowReport", "ZarrSink", "ZarrSource", "cube_source", "declared",
    "infer", "load", "raster_source", "run", "whole",
]  # fmt: skip
