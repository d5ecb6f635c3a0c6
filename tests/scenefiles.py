"""Small Sentinel-2 SAFE and Landsat products, written as the agencies lay them out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SAFE_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


def write_tif(path: Path, pixels: np.ndarray, metres: float, crs="EPSG:32629", origin=(499980.0, 5900040.0), **more):
    """A GeoTIFF of one or several bands (y, x) or (band, y, x), in blocks of 64."""
    import rasterio
    from rasterio.transform import from_origin

    stack = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, **more}
    with rasterio.open(
        path, "w", count=len(stack), height=stack.shape[1], width=stack.shape[2], dtype=stack.dtype, crs=crs,
        transform=from_origin(*origin, metres, metres), **options,
    ) as dst:  # fmt: skip
        dst.write(stack)


def ground(seed: int, shape=(96, 96), low=200, high=4000) -> np.ndarray:
    """uint16 digital numbers with a strip of nodata at the left."""
    pixels = np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)
    pixels[:, : shape[1] // 8] = 0
    return pixels


def write_safe(
    folder: Path,
    bands: Mapping[tuple[str, int], np.ndarray],
    *,
    level: str = "L2A",
    baseline: str | None = "04.00",
    offsets: Mapping[str, float] | None = None,
    sensed: str = "2022-10-05T11:56:49.581767Z",
    generated: str = "20221005T164454",
    tile: str = "29UNU",
    strip: str = "20221005T115407",
    extra: str = "",
) -> Path:
    """A SAFE with `bands` {(band or SCL, metres): pixels}; offsets: DN by physical band (None: no list).

    Rasters are GeoTIFFs. extra: text in front of the product's XML (after the declaration).
    """
    version = (baseline or "99.99").replace(".", "")
    start = "20221005T115411"
    name = f"S2A_MSI{level}_{start}_N{version}_R023_T{tile}_{generated}"
    safe, granule = folder / f"{name}.SAFE", f"{level}_T{tile}_A038058_{strip}"
    for (band, metres), pixels in bands.items():
        sub = f"R{metres}m/T{tile}_{start}_{band}_{metres}m" if level == "L2A" else f"T{tile}_{start}_{band}"
        write_tif(safe / f"GRANULE/{granule}/IMG_DATA/{sub}.tif", pixels, metres)
    kind, quant = ("BOA", "BOA_QUANTIFICATION_VALUE") if level == "L2A" else ("RADIO", "QUANTIFICATION_VALUE")
    listed = "".join(
        f'<{kind}_ADD_OFFSET band_id="{i}">{offsets[b]:g}</{kind}_ADD_OFFSET>'
        for i, b in enumerate(SAFE_BANDS)
        if offsets is not None and b in offsets
    )
    spectral = "".join(f'<Spectral_Information bandId="{i}" physicalBand="{b}"/>' for i, b in enumerate(SAFE_BANDS))
    made = f"{generated[:4]}-{generated[4:6]}-{generated[6:8]}T{generated[9:11]}:{generated[11:13]}:{generated[13:]}Z"
    (safe / f"MTD_MSI{level}.xml").write_text(
        f"""<?xml version="1.0" encoding="UTF-8"?>{extra}
<n1:User_Product xmlns:n1="https://example.org/psd"><n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2022-10-05T11:54:11.024Z</PRODUCT_START_TIME><PRODUCT_URI>{name}.SAFE</PRODUCT_URI>
{f"<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>" if baseline else ""}
<GENERATION_TIME>{made}</GENERATION_TIME><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME></Product_Info>
<Product_Image_Characteristics>
<Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
<Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX></Special_Values>
<{quant} unit="none">10000</{quant}>{listed}{spectral}</Product_Image_Characteristics></n1:General_Info>
<EXT_POS_LIST>53.2 -9.0 53.2 -7.8 52.3 -7.8 52.3 -9.0 53.2 -9.0</EXT_POS_LIST></n1:User_Product>"""
    )
    (safe / f"GRANULE/{granule}/MTD_TL.xml").write_text(
        f"""<?xml version="1.0" encoding="UTF-8"?><n1:Tile xmlns:n1="https://example.org/psd">
<TILE_ID>S2A_OPER_MSI_{level}_TL_ATOS_20221005T164454_A038058_T{tile}_N04.00</TILE_ID>
<DATASTRIP_ID>S2A_OPER_MSI_{level}_DS_ATOS_20221005T164454_S{strip}_N04.00</DATASTRIP_ID>
<SENSING_TIME>{sensed}</SENSING_TIME><HORIZONTAL_CS_CODE>EPSG:32629</HORIZONTAL_CS_CODE></n1:Tile>"""
    )
    return safe


def write_landsat(
    folder: Path,
    bands: Mapping[str, np.ndarray],
    *,
    product: str = "LC08_L2SP_008059_20191201_20200825_02_T1",
    metadata: tuple[str, ...] = ("json",),
    mult: float = 2.75e-05,
    add: float = -0.2,
) -> Path:
    """A folder with a Landsat scene of `bands` {SR_B4 or QA_PIXEL: pixels}; metadata: json, xml (MTL), stac."""
    folder.mkdir(parents=True, exist_ok=True)
    for band, pixels in bands.items():
        nodata = {} if band.startswith("QA") else {"nodata": 0}
        write_tif(folder / f"{product}_{band}.TIF", pixels, 30.0, "EPSG:32618", (378285.0, 275715.0), **nodata)
    day = product.split("_")[3]
    numbers = [b[4:] for b in bands if b.startswith("SR_B")]
    groups = {
        "PRODUCT_CONTENTS": {"LANDSAT_PRODUCT_ID": product, "PROCESSING_LEVEL": product[5:9]},
        "IMAGE_ATTRIBUTES": {
            "DATE_ACQUIRED": f"{day[:4]}-{day[4:6]}-{day[6:]}", "SCENE_CENTER_TIME": "15:13:51.8610990Z",
            "CLOUD_COVER": "81.02",
        },
        "PROJECTION_ATTRIBUTES": {
            f"CORNER_{c}_{axis}_PRODUCT": str(v)
            for c, lat, lon in (("UL", 2.5, -76.1), ("UR", 2.5, -74.0), ("LL", 0.4, -76.1), ("LR", 0.4, -74.0))
            for axis, v in (("LAT", lat), ("LON", lon))
        },
        "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": {
            **{f"REFLECTANCE_MULT_BAND_{n}": str(mult) for n in numbers},
            **{f"REFLECTANCE_ADD_BAND_{n}": str(add) for n in numbers},
        },
        "LEVEL2_SURFACE_TEMPERATURE_PARAMETERS": {
            "TEMPERATURE_MULT_BAND_ST_B10": "0.00341802", "TEMPERATURE_ADD_BAND_ST_B10": "149.0",
        },
        # of the Level-1 product that it was made from: not the scale of these files
        "LEVEL1_RADIOMETRIC_RESCALING": {f"REFLECTANCE_MULT_BAND_{n}": "2.0000E-05" for n in numbers},
    }  # fmt: skip
    if "json" in metadata:
        (folder / f"{product}_MTL.json").write_text(json.dumps({"LANDSAT_METADATA_FILE": groups}))
    if "xml" in metadata:
        body = "".join(
            f"<{g}>{''.join(f'<{k}>{v}</{k}>' for k, v in keys.items())}</{g}>" for g, keys in groups.items()
        )
        (folder / f"{product}_MTL.xml").write_text(f"<LANDSAT_METADATA_FILE>{body}</LANDSAT_METADATA_FILE>")
    if "stac" in metadata:
        assets = {b: {"href": f"https://example.org/{product}/{product}_{b}.TIF"} for b in bands}
        item = {"type": "Feature", "id": product, "bbox": [-76.1, 0.4, -74.0, 2.5], "assets": assets,
                "properties": {"datetime": "2019-12-01T15:13:51.861Z"}}  # fmt: skip
        (folder / f"{product}_SR_stac.json").write_text(json.dumps(item))
    return folder
