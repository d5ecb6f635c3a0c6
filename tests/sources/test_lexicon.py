import pytest

from eoflow.errors import BadInput
from eoflow.sources import lexicon
from eoflow.sources.units import normalise


def test_every_term_is_consistent():
    for t in lexicon.TERMS.values():
        assert t.name.isidentifier()
        assert normalise(t.units) == t.units
        assert t.valid_range[0] < t.valid_range[1]
        assert t.converts(t.units)


def test_no_alias_stands_for_two_terms():
    seen = {}
    for t in lexicon.TERMS.values():
        for alias in {a.lower() for a in t.aliases} | {t.name}:
            assert seen.setdefault(alias, t.name) == t.name, f"{alias} means {seen[alias]} and {t.name}"


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("2m_temperature", "t2m"),
        ("slp", "msl"),
        ("prmsl", "msl"),
        ("hus", "q"),
        ("zg", "z"),
        ("hgt", "z"),
        ("uwnd", "u"),
        ("mean_sea_level_pressure", "msl"),
        ("total_precipitation_6hr", "tp6h"),
        ("geopotential_at_surface", "orog"),
        ("tas", "t2m"),
    ],
)
def test_provider_names(provider, name):
    assert lexicon.names()[provider] == name


def test_unknown_family_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'ncep'"):
        lexicon.names("nceps")
