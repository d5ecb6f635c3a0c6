"""What a prediction of an image task hands back, and the sentences it says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class ProductReport:
    """What was made and where it lies.

    tiles: rows of tile (or scene), time, share of pixels with a result. areas: rows of zone, tile, time and km2 by
    class. messages: what a person must know. made: False where the product was there already, or nothing was to do.
    files: of the form that works on files.
    """

    task: str
    verb: str
    dataset: str
    model: str
    checkpoint: str
    id: str = ""
    path: str = ""
    made: bool = False
    tiles: list[dict[str, Any]] = field(default_factory=list)
    areas: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    seconds: float = 0.0
    windows: int = 0
    resumed: int = 0
    open_lines: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def say(self, text: str) -> None:
        """Add a message, once."""
        if text not in self.messages:
            self.messages.append(text)


def remark(task: str, name: str, when: str, share: float, classes: dict[int, int]) -> str | None:
    """A sentence for a map that shows nothing, or nothing of what was looked for; None for any other.

    classes: pixels by class.
    """
    at = f"{name} {when}".strip()
    if share == 0:
        return f"{at}: no pixel could be judged (no data, or clouds everywhere); the map holds nodata only."
    if task == "segmentation" and not classes.get(1):
        return f"{at}: no water was found."
    if task == "change-detection" and not classes.get(1):
        return f"{at}: no change was found."
    return None
