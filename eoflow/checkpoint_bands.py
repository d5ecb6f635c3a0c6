"""A checkpoint that runs on more bands than it was trained on.

A network that says so (`any_bands`) looks at the bands it was trained on and treats all others alike: for the bands of
other data its checkpoint is widened, and the image that it fills has every reflectance band that the input has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from eoflow.checkpoint_images import plain_normalizer, reduced

if TYPE_CHECKING:
    from eoflow.bands import SceneSchema
    from eoflow.checkpoint_images import ImageCheckpoint


def widened(found: ImageCheckpoint, schema: SceneSchema) -> ImageCheckpoint:
    """The checkpoint for all bands of a schema that are in the units of its own: its own first, then the others.

    The one that was given where the network takes its own bands only, where its values are normalised, or where there
    are no others. Weights are shared. Raises SchemaMismatch where a band that the network looks at is not there.
    """
    own = found.normalizer
    plain = not any(own.transforms) and all(v == 0 for v in own.mean) and all(v == 1 for v in own.std)
    targets = found.recipe.patches.targets
    whole = tuple(str(c) for c in own.channels) == targets
    if not (getattr(found.model, "any_bands", False) and plain and whole):
        return found
    first = [str(c) for c in found.fitted(schema).channels]
    units = set(own.units)
    others = [b.name for b in schema.bands if b.name not in first and b.units in units]
    if not others:
        return found
    names = (*first, *others)
    patches = found.recipe.patches.model_copy(update={"bands": names, "targets": names})
    normalizer = plain_normalizer(schema, names)
    return replace(
        found, recipe=found.recipe.model_copy(update={"patches": patches}), schema=reduced(schema, names),
        normalizer=normalizer, target_normalizer=normalizer,
    )  # fmt: skip
