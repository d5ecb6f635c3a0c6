"""Validation of STAC items without a network, by the core schemas that pystac carries."""

from __future__ import annotations

from typing import Any


def wrong(item: dict[str, Any]) -> list[str]:
    """What the core specification has against an item; empty: nothing."""
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource

    schemas = get_local_schema_cache()
    registry: Any = Registry().with_resources([(k, Resource.from_contents(v)) for k, v in schemas.items()])
    core = next(v for k, v in schemas.items() if k.endswith("/item-spec/json-schema/item.json"))
    found = Draft7Validator(core, registry=registry).iter_errors(item)
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in found]
