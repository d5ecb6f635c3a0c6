"""Settings come from the environment; what cannot be used is bad input, by name."""

from __future__ import annotations

import pytest

from eoflow.config import settings
from eoflow.errors import BadInput


@pytest.fixture
def again(monkeypatch):
    """Settings read anew, in the test and after it."""
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


def test_the_environment_says(again):
    again.setenv("EOFLOW_RUNTIME", "bf16")
    again.setenv("EOFLOW_RETRIES", "0")
    assert (settings().runtime, settings().retries) == ("bf16", 0)
    assert settings() is settings()


@pytest.mark.parametrize(("name", "value", "todo"), [
    ("EOFLOW_RUNTIME", "bf8", "'auto', 'eager'"), ("EOFLOW_RETRIES", "-1", "greater than or equal to 0"),
    ("EOFLOW_MEMORY_MB", "much", "valid integer"),
])  # fmt: skip
def test_a_value_that_cannot_be_used_is_bad_input(again, name, value, todo):
    again.setenv(name, value)
    with pytest.raises(BadInput, match=f"{name} cannot be '{value}'") as e:
        settings()
    assert todo in e.value.todo
    assert e.value.exit_code == 2
