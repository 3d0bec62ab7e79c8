"""The XML files of the PASCAL challenges on textual entailment, RTE-1 to RTE-5.

    <pair id="8" value="FALSE" task="IR"><t>a text</t><h>a hypothesis</h></pair>     RTE-1
    <pair id="2" entailment="YES" task="IE">...</pair>                              RTE-2 to RTE-5

A pair gives a row with `id`, `t`, `h` and `label`.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.parsers import expat

from unmask.data.text import decoding
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError
from unmask.tasks.data.rows import TableRow

__all__ = ["read_rte_xml"]


def read_rte_xml(path: FilePath) -> Iterator[TableRow]:
    """Yield a row for each pair of a file; entities that a document type declares are not read.

    Raises:
        CorpusError: the file is not well-formed XML, or a pair lacks one of its texts.
    """
    rows: list[TableRow] = []
    pair: dict[str, str | None] = {}
    line = 0
    part: list[str] | None = None

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal part, line
        if name == "pair":
            line = parser.CurrentLineNumber
            label = attributes.get("entailment", attributes.get("value"))
            pair.clear()
            pair.update(id=attributes.get("id"), label=label)
        elif name in ("t", "h"):
            part = []

    def end(name: str) -> None:
        nonlocal part
        if name in ("t", "h") and part is not None:
            pair[name] = "".join(part).strip()
            part = None
        elif name == "pair":
            place = f"{path}, line {line}"
            if not {"t", "h"} <= pair.keys():
                raise CorpusError(
                    f"data: {place}: the pair must have a text <t> and a hypothesis <h>; add what is missing"
                )
            rows.append(TableRow(dict(pair), place))

    def text(data: str) -> None:
        if part is not None:
            part.append(data)

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    with decoding.errors_named(path), decoding.open_bytes(path) as stream:
        try:
            parser.ParseFile(stream)
        except expat.ExpatError as error:
            raise CorpusError(f"data: {path} is not well-formed XML ({error}); mend that line") from None
    yield from rows
