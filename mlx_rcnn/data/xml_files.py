"""XML files read without what XML may do to a reader: entities are refused."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat


def read_xml(path: Path) -> Element:
    """The root element of an XML file; ValueError if it is damaged or declares entities."""
    with path.open("rb") as file:
        return parse_xml(file.read())


def parse_xml(data: bytes) -> Element:
    """The root element of XML in memory, encoded as it says, else UTF-8; as :func:`read_xml`."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    # entities may grow without bound (a "billion laughs") or name other files
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except expat.ExpatError as error:
        place = f"at line {error.lineno}, column {error.offset + 1}"
        reason = str(error).split(":")[0]
        raise ValueError(f"not well-formed XML {place}: {reason}") from error
    except (LookupError, AssertionError) as error:  # an encoding nobody knows; an unclosed tree
        raise ValueError(f"cannot read the XML: {error}") from error


def root_tag(path: Path) -> str | None:
    """The outermost element's tag, from the first kilobytes of a file; ``None`` if unreadable."""
    found: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, _: found.append(tag)
    parser.EntityDeclHandler = _refuse
    try:
        with path.open("rb") as file:
            parser.Parse(file.read(4096), False)
    except (OSError, ValueError, LookupError, expat.ExpatError):
        pass
    return found[0] if found else None


def _refuse(name: str, *_: object) -> None:
    raise ValueError(f"cannot read the XML: it declares an entity ({name[:40]}), which is refused")
