"""What goes wrong at a sample provider, and until when: a part of the catalog entry."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator

from eoflow.times import Period, parse_time


class Lasting(BaseModel):
    """Something that is wrong until it is put right. `at`: a day or START/END. `until`: when; None: never."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: str
    until: str | None = None

    @field_validator("at", "until", mode="before")
    @classmethod
    def _date(cls, v: Any) -> Any:
        return v.isoformat() if hasattr(v, "isoformat") else v

    @field_validator("at", "until")
    @classmethod
    def _parses(cls, v: str | None, info: Any) -> str | None:
        if v is not None:
            (Period.parse if info.field_name == "at" else parse_time)(v)
        return v

    def lasts(self, now: np.datetime64) -> bool:
        """Whether it is still wrong at `now`."""
        return self.until is None or bool(now < parse_time(self.until))
