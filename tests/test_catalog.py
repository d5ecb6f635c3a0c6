from __future__ import annotations

import pytest

from eoflow import catalog, registry
from eoflow.errors import BadInput

ENTRY = "name: a\ntitle: t\nsource: {driver: zarr, args: {}}\nschedule: {start: 2020-01-01, cadence: 6h}\n"


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_every_shipped_entry_is_valid(kind):
    read = {"datasets": catalog.entry, "models": catalog.recipe}[kind]
    assert catalog.names(kind)
    for name in catalog.names(kind):
        entry = read(name)
        assert entry.name == name
        registry.load("sources", entry.source.driver) if kind == "datasets" else registry.load(
            "models", entry.network.name
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.replace("cadence", "cadance"), "schedule.cadance.*did you mean 'cadence'"),
        (ENTRY.replace("driver", "drivr"), "source.drivr.*did you mean 'driver'"),
        (ENTRY + "layot: map\n", "layot.*did you mean 'layout'"),
        (ENTRY + "checks: {max_nan_fraction: 3}\n", "max_nan_fraction"),
        (ENTRY.replace("6h", "6 moons"), "not a cadence"),
        (ENTRY.replace("name: a", "name: ../a"), "not a usable"),
        ("- a\n- b\n", "no mapping"),
        ("name: [unclosed", "not valid YAML"),
    ],
)
def test_wrong_yaml_names_the_key_and_the_nearest_right_one(text, message):
    with pytest.raises(BadInput, match=message) as e:
        catalog.parse(text, catalog.DatasetEntry, "entry.yaml")
    assert "entry.yaml" in str(e.value)


def test_yaml_round_trip(workspace):
    entry = catalog.parse(ENTRY, catalog.DatasetEntry, "x")
    catalog.save_dataset(entry, workspace)
    assert catalog.dataset("a", workspace) == entry
    assert "a" in catalog.names("datasets", workspace)


def test_unknown_names_come_with_the_near_ones():
    with pytest.raises(BadInput, match="did you mean 'persistence'"):
        catalog.recipe("persistance")
    with pytest.raises(BadInput, match="did you mean 'zarr'"):
        registry.load("sources", "zar")
    with pytest.raises(BadInput, match="No module named"):
        registry.load("models", "no_such_package.net:Net")


def test_overrides():
    recipe = catalog.recipe("persistence")
    changed = catalog.apply_overrides(recipe, ["training.epochs=3", "network.options.width=32"])
    assert changed.training.epochs == 3
    assert changed.network.options["width"] == 32
    for bad in ("training.epoch=3", "training", "name.x=1"):
        with pytest.raises(BadInput):
            catalog.apply_overrides(recipe, [bad])


def test_expected_times_end_with_delay_and_schedule():
    schedule = catalog.Schedule(start="2020-01-01", cadence="6h", delay="12h")
    axis = schedule.expected(None, "2020-01-02")
    assert str(axis[-1])[:13] == "2020-01-01T12"
    closed = catalog.Schedule(start="2020-01-01", cadence="1d", end="2020-01-03")
    assert len(closed.expected(None, "2030-01-01")) == 3
