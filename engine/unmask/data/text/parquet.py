"""Parquet: a row is a document, its text in one column or in several. Rows are streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from unmask.data.text import decoding
from unmask.data.text.options import Cuts, ReadOptions, joined, missing_field
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_parquet"]

_ROWS = 1024


def read_parquet(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = options.fields
    with decoding.open_seekable(path) as stream:
        try:
            table = pq.ParquetFile(stream)
            for field in fields:
                _check_column(table.schema_arrow, path, field)
            batches = table.iter_batches(batch_size=_ROWS, columns=list(fields))
            rows = (values for batch in batches for values in zip(*map(batch.column, fields), strict=True))
            for row, values in enumerate(rows):
                origin = f"{path}:row {row}"
                try:
                    text = joined(value.as_py() for value in values)
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"corpus: {origin} is not UTF-8 at byte {error.start} of the text ({error.reason}); convert "
                        "the column first"
                    ) from None
                yield text, origin
        # names in a damaged footer may be no text
        except (pa.ArrowException, UnicodeDecodeError) as error:
            stream.seek(0)
            head = stream.read(8)
            way = "" if head.startswith(b"PAR1") else decoding.other_format(head, path)
            raise CorpusError(f"corpus: {path} cannot be read as parquet ({error}){way or '; copy it again'}") from None


def _check_column(schema: pa.Schema, path: FilePath, name: str) -> None:
    import pyarrow as pa

    if name not in schema.names:
        raise CorpusError(missing_field(str(path), name, schema.names))
    kind = schema.field(name).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    # a column of nothing but nulls has no other type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_text(value) for is_text in texts):
        raise CorpusError(f"corpus: {path}: column {name!r} must hold strings, it holds {kind}")
