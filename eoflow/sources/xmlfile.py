"""Metadata in XML, from files that nobody vouches for: no document type, no entities, bounded size and depth."""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from eoflow.sources.base import AssetCorrupt

MAX_BYTES = 32 * 2**20
"""Bytes of a metadata file; the largest in use (a tile's angles) has 0.5 MB."""
MAX_DEPTH = 100


class _Refused(Exception):
    pass


def parse(content: bytes, where: str) -> Element:
    """XML -> its root element; tags and attributes without namespace prefixes.

    A document type declaration is refused: entities can expand without end or name other files, and no metadata of a
    scene needs one. Raises AssetCorrupt.
    """
    if len(content) > MAX_BYTES:
        raise AssetCorrupt(f"the XML is larger than {MAX_BYTES // 2**20} MiB", where=where, todo="check the product")
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise _Refused(f"elements nested deeper than {MAX_DEPTH}")
        builder.start(tag.rpartition(":")[2], {k.rpartition(":")[2]: v for k, v in attributes.items()})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag.rpartition(":")[2])

    def doctype(*_: object) -> int:
        raise _Refused("it declares a document type (DTD), which may hold an XML bomb or name other files")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    parser.EntityDeclHandler = doctype
    parser.ExternalEntityRefHandler = doctype
    try:
        parser.Parse(content, True)
        return builder.close()
    except _Refused as e:
        raise AssetCorrupt(f"the XML is refused: {e}", where=where, todo="get the product from its provider") from None
    except (expat.ExpatError, ValueError, LookupError) as e:  # the last two: an encoding that Python does not know
        raise AssetCorrupt(f"the XML is damaged ({e})", where=where, todo="fetch the product again") from None


def text_of(root: Element, tag: str) -> str | None:
    """The text of the first element called `tag`, at any depth; None if there is none or it is empty."""
    found = root.find(f".//{tag}")
    text = None if found is None else (found.text or "").strip()
    return text or None
