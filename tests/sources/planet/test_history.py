from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import torch

from eoflow.sources.planet.history import SEGMENT, History


def hours(first: str, count: int) -> np.ndarray:
    return (np.datetime64(first) + 6 * np.arange(count).astype("timedelta64[h]")).astype("datetime64[ns]")


def test_continuous_across_segments(history, year):
    times, states = year
    planet = history.planet
    k = SEGMENT - 2
    through = planet.advance(states[k], times[k], 4)
    assert torch.equal(through, states[k + 1 : k + 5])


def test_the_order_of_asking_changes_nothing(history, year, tmp_path):
    times, states = year
    late_first = History(history.seed, history.start, str(tmp_path))
    pick = np.array([SEGMENT + 3, 2, SEGMENT - 1])
    assert torch.equal(late_first.states(times[pick]), states[pick])


def test_cache_is_read_continued_and_healed(history, year, tmp_path):
    times, states = year
    copy = History(history.seed, history.start, str(tmp_path))
    copy.path.mkdir(parents=True)
    first = sorted(history.path.glob("*.npy"))[0]
    shutil.copy(first, copy.path / first.name)
    made = (copy.path / first.name).stat().st_mtime_ns
    assert torch.equal(copy.states(times[SEGMENT : SEGMENT + 5]), states[SEGMENT : SEGMENT + 5])
    assert (copy.path / first.name).stat().st_mtime_ns == made  # read, not made again
    second = copy.path / "000001.npy"
    second.write_bytes(second.read_bytes()[:5000])  # a damaged disk
    assert torch.equal(copy.states(times[SEGMENT : SEGMENT + 5]), states[SEGMENT : SEGMENT + 5])
    assert not list(copy.path.glob(".tmp-*"))


def test_a_process_killed_while_writing_leaves_no_part(history, year, tmp_path, monkeypatch):
    copy = History(history.seed, history.start, str(tmp_path))
    shutil.copytree(history.path, copy.path, ignore=lambda _, names: [n for n in names if n > "000000.npy"])

    def dies(f, *args, **kwargs):
        f.write(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(np, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            copy.states(year[0][SEGMENT : SEGMENT + 1])
    assert sorted(p.name for p in copy.path.iterdir()) == ["000000.npy"]
    assert torch.equal(copy.states(year[0][SEGMENT : SEGMENT + 1]), year[1][SEGMENT : SEGMENT + 1])


def test_other_seeds_and_starts_have_other_folders(tmp_path):
    folders = {History(s, t, str(tmp_path)).path for s in (1, 2) for t in ("2000-01-01", "2001-01-01")}
    assert len(folders) == 4


def test_times_off_the_step_or_before_the_start_are_refused(history):
    for wrong in (hours("2000-12-31T18", 1), hours("2001-01-01T03", 1)):
        with pytest.raises(ValueError, match="6-hourly states from 2001-01-01"):
            history.states(wrong)


def test_it_travels_to_workers(history, year):
    there = pickle.loads(pickle.dumps(history))
    t = year[0][:2]
    np.testing.assert_array_equal(there.fields(t)["z"], history.fields(t)["z"])
