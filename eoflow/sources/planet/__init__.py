"""The sample planet: a three-level quasi-geostrophic T21 atmosphere with seasons and mountains.

``spectral`` holds the transforms, ``forcing`` what drives and damps the flow, ``dynamics`` the equations and the
time stepping, ``world`` the planet with its calendar, ``history`` its past on disk. Nothing here knows catalogs or
archives.
"""

PRESSURE_LEVELS = (200, 500, 800)  # hPa
