"""Files that stay open between two uses: who gets them, which are closed."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from rasters import write

from eoflow.sources import raster_open as ro
from eoflow.sources.raster import RasterReader, fill_in
from eoflow.sources.raster_files import OpenFiles, handles
from eoflow.sources.scene import RasterBand


class File:
    """What OpenFiles needs of an open file."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def fill(files: OpenFiles, names: str, used: bool = False) -> dict[str, File]:
    made = {n: File() for n in names}
    for name, file in made.items():
        files.give(name, file, files.generation, used)
    return made


def test_a_file_is_with_one_user_at_a_time():
    files = OpenFiles(4)
    made = fill(files, "a")
    assert files.take("a") is made["a"]
    assert files.take("a") is None
    second = File()
    files.give("a", made["a"], files.generation, True)
    files.give("a", second, files.generation, True)
    assert {id(files.take("a")), id(files.take("a"))} == {id(made["a"]), id(second)}
    assert len(files) == 0


def test_files_of_which_only_the_header_was_read_stay_for_their_pixels():
    files = OpenFiles(3)
    made = fill(files, "abcd")
    assert [made[n].closed for n in "abcd"] == [False, False, False, True]  # the first are the next to be needed
    files.give("a", files.take("a"), files.generation, True)
    files.give("b", files.take("b"), files.generation, True)
    more = fill(files, "ef")
    assert (made["a"].closed, made["b"].closed, made["c"].closed) == (True, True, False)  # longest ago first
    assert not more["e"].closed
    assert not more["f"].closed
    assert len(files) == 3
    files.drop("c")
    assert made["c"].closed
    assert len(files) == 2


def test_closing_reaches_files_in_use_when_they_come_back():
    files = OpenFiles(3)
    made = fill(files, "ab")
    generation, away = files.generation, files.take("a")
    files.close()
    assert made["b"].closed
    assert not made["a"].closed
    files.give("a", away, generation, True)
    assert made["a"].closed
    assert len(files) == 0


def test_the_limit_of_the_process():
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert handles(8) == (8 if soft >= 32 or soft < 0 else max(1, soft // 4))
    assert handles(10**9) <= (10**9 if soft < 0 else soft // 4)


def test_the_pixels_are_read_from_the_file_that_was_opened_for_its_header(tmp_path: Path, monkeypatch):
    """Also by another thread; and opened again where the file has changed since."""
    opened: list[str] = []
    real = ro.open_raster
    monkeypatch.setattr(ro, "open_raster", lambda path, *rest: (opened.append(path), real(path, *rest))[1])
    data = np.random.default_rng(0).integers(1, 200, (64, 64), dtype=np.uint8)
    href = str(write(tmp_path / "a.tif", data))
    reader = RasterReader()
    band = fill_in(RasterBand(href), reader.header(href))
    got: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: got.append(reader.read(band, band.grid))) for _ in range(3)]
    for t in threads:
        t.start()
        t.join()
    assert opened == [href]
    assert all((g == data).all() for g in got)
    Path(href).unlink()
    write(Path(href), data + np.uint8(1), compress="lzw")
    np.testing.assert_array_equal(reader.read(band, band.grid), data + np.uint8(1))
    assert opened == [href, href]
    reader.close()
    reader.read(band, band.grid)
    assert len(opened) == 3
