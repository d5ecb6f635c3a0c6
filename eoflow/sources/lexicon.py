"""The lexicon: provider names, CF standard names and GRIB names -> eoflow's names, units and plausible ranges.

eoflow's names are ECMWF's short names (`z`, `t2m`, `msl`). A range is wide on purpose: it is there to catch wrong
units and broken decoding, not weather.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from eoflow.errors import BadInput
from eoflow.registry import nearest
from eoflow.sources.units import Special, conversion

# name | units | lowest highest | flags | CF standard names | long name; below it, indented, the names of providers
_TABLE = """
z | m2 s-2 | -20000 800000 | levels geopotential | geopotential geopotential_height | geopotential
    geopotential phi zg hgt gh height_isobaric geopotential_height
t | K | 130 360 | levels | air_temperature | temperature
    temperature ta temp air tmp
u | m s-1 | -250 250 | levels | eastward_wind | eastward wind
    u_component_of_wind ua uwnd ugrd
v | m s-1 | -250 250 | levels | northward_wind | northward wind
    v_component_of_wind va vwnd vgrd
q | kg kg-1 | -0.001 0.1 | levels | specific_humidity | specific humidity
    specific_humidity hus shum spfh
r | % | -20 200 | levels | relative_humidity | relative humidity
    relative_humidity hur rh rhum
w | Pa s-1 | -100 100 | levels | lagrangian_tendency_of_air_pressure | vertical velocity
    vertical_velocity wap omega vvel
vo | s-1 | -0.05 0.05 | levels | atmosphere_relative_vorticity | relative vorticity
    vorticity relative_vorticity
d | s-1 | -0.05 0.05 | levels | divergence_of_wind | divergence
    divergence
pv | K m2 kg-1 s-1 | -0.1 0.1 | levels | ertel_potential_vorticity | potential vorticity
    potential_vorticity
o3 | kg kg-1 | -1e-06 0.0001 | levels | mass_fraction_of_ozone_in_air | ozone mass mixing ratio
    ozone_mass_mixing_ratio o3mr
clwc | kg kg-1 | -0.0001 0.05 | levels | - | specific cloud liquid water content
    specific_cloud_liquid_water_content
ciwc | kg kg-1 | -0.0001 0.05 | levels | - | specific cloud ice water content
    specific_cloud_ice_water_content
crwc | kg kg-1 | -0.0001 0.05 | levels | - | specific rain water content
    specific_rain_water_content
cswc | kg kg-1 | -0.0001 0.05 | levels | - | specific snow water content
    specific_snow_water_content
cc | 1 | -0.01 1.01 | levels | - | fraction of cloud cover
    fraction_of_cloud_cover
msl | Pa | 85000 112000 | - | air_pressure_at_mean_sea_level air_pressure_at_sea_level | mean sea level pressure
    mean_sea_level_pressure psl slp prmsl mslp mean_sea_level
sp | Pa | 40000 112000 | - | surface_air_pressure | surface pressure
    surface_pressure ps psfc pressfc
t2m | K | 170 345 | - | - | 2 metre temperature
    2m_temperature 2t tas t2 2m_air_temperature air.2m air_2m 2_metre_temperature
d2m | K | 150 325 | - | dew_point_temperature | 2 metre dewpoint temperature
    2m_dewpoint_temperature 2d tdps td2m 2_metre_dewpoint_temperature
u10 | m s-1 | -120 120 | - | - | 10 metre eastward wind
    10m_u_component_of_wind 10u uas u10m 10_metre_u_wind_component uwnd.10m
v10 | m s-1 | -120 120 | - | - | 10 metre northward wind
    10m_v_component_of_wind 10v vas v10m 10_metre_v_wind_component vwnd.10m
u100 | m s-1 | -150 150 | - | - | 100 metre eastward wind
    100m_u_component_of_wind 100u 100_metre_u_wind_component
v100 | m s-1 | -150 150 | - | - | 100 metre northward wind
    100m_v_component_of_wind 100v 100_metre_v_wind_component
si10 | m s-1 | 0 150 | - | - | 10 metre wind speed
    10m_wind_speed 10si sfcwind ws10
fg10 | m s-1 | 0 200 | - | wind_speed_of_gust | 10 metre wind gust
    10fg i10fg 10m_wind_gust_since_previous_post_processing
mx2t | K | 170 345 | - | - | maximum 2 metre temperature
    tasmax t2m_max maximum_2m_temperature_since_previous_post_processing
mn2t | K | 170 345 | - | - | minimum 2 metre temperature
    tasmin t2m_min minimum_2m_temperature_since_previous_post_processing
skt | K | 150 380 | - | surface_temperature | skin temperature
    skin_temperature ts
sst | K | 250 325 | - | sea_surface_temperature | sea surface temperature
    sea_surface_temperature tos
siconc | 1 | -0.01 1.01 | - | sea_ice_area_fraction | sea ice area fraction
    ci sea_ice_cover sic icec
sd | m | -0.001 100 | water | lwe_thickness_of_surface_snow_amount | snow depth water equivalent
    snow_depth swe
tp | m | -0.001 3 | water | - | total precipitation
    total_precipitation apcp precip
tp6h | m | -0.001 1 | water | - | total precipitation of the past 6 hours
    total_precipitation_6hr
tp24h | m | -0.001 3 | water | - | total precipitation of the past 24 hours
    total_precipitation_24hr
cp | m | -0.001 3 | water | - | convective precipitation
    convective_precipitation acpcp
lsp | m | -0.001 3 | water | - | large-scale precipitation
    large_scale_precipitation
sf | m | -0.001 3 | water | - | snowfall water equivalent
    snowfall
pr | kg m-2 s-1 | -1e-06 0.2 | - | precipitation_flux | precipitation flux
    precipitation_flux
tcc | 1 | -0.01 1.01 | - | cloud_area_fraction | total cloud cover
    total_cloud_cover clt
lcc | 1 | -0.01 1.01 | - | - | low cloud cover
    low_cloud_cover
mcc | 1 | -0.01 1.01 | - | - | medium cloud cover
    medium_cloud_cover
hcc | 1 | -0.01 1.01 | - | - | high cloud cover
    high_cloud_cover
tcwv | kg m-2 | -0.1 120 | - | atmosphere_mass_content_of_water_vapor | total column water vapour
    total_column_water_vapour total_column_water_vapor prw pwat pr_wtr
tcw | kg m-2 | -0.1 150 | - | - | total column water
    total_column_water
tisr | J m-2 | -10 2e+08 | - | - | top of atmosphere incident solar radiation
    toa_incident_solar_radiation
ssrd | J m-2 | -10 2e+08 | - | - | surface downward solar radiation
    surface_solar_radiation_downwards
strd | J m-2 | -10 2e+08 | - | - | surface downward thermal radiation
    surface_thermal_radiation_downwards
blh | m | -1 12000 | - | atmosphere_boundary_layer_thickness | boundary layer height
    boundary_layer_height
cape | J kg-1 | -10 20000 | - | atmosphere_convective_available_potential_energy | convective available potential energy
    convective_available_potential_energy
swvl1 | m3 m-3 | -0.05 1.2 | - | - | volumetric soil water layer 1
    volumetric_soil_water_layer_1
stl1 | K | 180 350 | - | - | soil temperature level 1
    soil_temperature_level_1
lsm | 1 | -0.01 1.01 | static | land_binary_mask land_area_fraction | land-sea mask
    land_sea_mask landmask sftlf
orog | m | -1000 9500 | static height | surface_altitude | surface altitude
    geopotential_at_surface orography topography surface_geopotential elevation hsurf topo
slt | 1 | -0.5 100 | static | soil_type | soil type
    soil_type
"""

# Names that mean different things to different providers: only where the entry says `source.args.lexicon: FAMILY`.
FAMILIES: dict[str, dict[str, str]] = {
    "generic": {},
    "ncep": {"pres": "sp", "air2m": "t2m", "land": "lsm", "weasd": "sd"},
    "gfs": {"pres": "sp", "land": "lsm"},
    "ecmwf": {"z_surface": "orog"},
    "wb2": {"geopotential_at_surface": "orog"},
}

# GRIB: (cfVarName, typeOfLevel) -> eoflow's name, where the name alone would say something else
GRIB_NAMES: dict[tuple[str, str], str] = {
    ("t", "surface"): "skt",
    ("z", "surface"): "orog",
    ("gh", "surface"): "orog",
    ("prmsl", "meanSea"): "msl",
    ("pwat", "atmosphereSingleLayer"): "tcwv",
    ("pwat", "entireAtmosphere"): "tcwv",
}


@dataclass(frozen=True)
class Term:
    """One variable as eoflow stores it. `valid_range` in `units`; `levelled`: lives on pressure levels."""

    name: str
    units: str
    standard_names: tuple[str, ...]
    long_name: str
    valid_range: tuple[float, float]
    aliases: tuple[str, ...] = ()
    levelled: bool = False
    static: bool = False
    special: Special = ""

    @property
    def standard_name(self) -> str | None:
        """The CF standard name, where there is one."""
        return self.standard_names[0] if self.standard_names else None

    def converts(self, units: str | None) -> bool:
        """Whether values in `units` (normalised; None: unknown) can be turned into this term's."""
        return units is None or conversion(units, self.units, self.special) is not None


def _parse(table: str) -> dict[str, Term]:
    rows: list[tuple[list[str], list[str]]] = []
    for line in table.strip().splitlines():
        if line.startswith(" "):
            rows[-1][1].extend(line.split())
        else:
            rows.append(([c.strip() for c in line.split("|")], []))
    terms = {}
    for (name, units, limits, flags, standard, long_name), aliases in rows:
        low, high = (float(x) for x in limits.split())
        marks = set(flags.split()) - {"-"}
        special = next(iter(marks - {"levels", "static"}), "")
        names = () if standard == "-" else tuple(standard.split())
        terms[name] = Term(
            name, units, names, long_name, (low, high), tuple(aliases),
            levelled="levels" in marks, static="static" in marks, special=cast(Special, special),
        )  # fmt: skip
    return terms


TERMS: dict[str, Term] = _parse(_TABLE)


@lru_cache(maxsize=16)
def names(family: str = "generic") -> dict[str, str]:
    """Lower-case provider name -> eoflow's name. Raises BadInput for an unknown family."""
    if family not in FAMILIES:
        raise BadInput(
            f"no lexicon called '{family}'{nearest(family, list(FAMILIES))}", where="source.args.lexicon",
            todo=f"choose from {', '.join(FAMILIES)}",
        )  # fmt: skip
    table = {a.lower(): t.name for t in TERMS.values() for a in t.aliases}
    table |= {t.name: t.name for t in TERMS.values()}
    return table | FAMILIES[family]


@lru_cache(maxsize=1)
def by_standard_name() -> dict[str, tuple[Term, ...]]:
    """CF standard name -> the terms it may stand for."""
    out: dict[str, tuple[Term, ...]] = {}
    for t in TERMS.values():
        for s in t.standard_names:
            out[s] = (*out.get(s, ()), t)
    return out


def by_long_name(text: str) -> Term | None:
    """The term whose long name is exactly this, in any letter case."""
    low = " ".join(text.lower().split())
    return next((t for t in TERMS.values() if t.long_name == low), None)
