"""Formats of files that say the type of each column, read some thousands of rows at a time."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlp_xp.rows.files import Arrow, File
from mlp_xp.tables.files.blocks import Part

# Bytes of each column that are read ahead.
_BUFFER_BYTES = 1 << 16

# Rows that are decoded together: no more, and fewer where there are many columns.
BLOCK_ROWS, BLOCK_VALUES, FEWEST_ROWS = 65_536, 1 << 23, 64


def block_rows(n_columns: int) -> int:
    """Rows of so many columns that are decoded together: 64 MiB of numbers."""
    return max(FEWEST_ROWS, min(BLOCK_ROWS, BLOCK_VALUES // max(1, n_columns)))


@dataclasses.dataclass(frozen=True)
class Format:
    """How files of one format are known and read. What its functions raise is said of the file (`reading`).

    Attributes
    ----------
    name : str
        What people call it.
    suffixes : tuple of str
        Ends of their names, the usual one first.
    mark : bytes
        How they begin; empty if they begin in many ways.
    columns : callable (File) -> list of (str, Arrow type)
        Names and types of the columns.
    parts : callable (File) -> list of Part
        What can be read on its own.
    batches : callable (Part, names) -> iterator of Arrow batches
        The rows of some columns of a part, checked.
    looked_at : callable (Part, names) -> iterator of Arrow batches, optional
        The same where rows are only looked at, if that can cost less.
    """

    name: str
    suffixes: tuple[str, ...]
    mark: bytes
    columns: Callable[[File], list[tuple[str, Any]]]
    parts: Callable[[File], list[Part]]
    batches: Callable[[Part, Sequence[str]], Iterator[Any]]
    looked_at: Callable[[Part, Sequence[str]], Iterator[Any]] | None = None


def _parquet(stream: Arrow) -> Any:
    from pyarrow import parquet

    # A buffer, and no pre_buffer: else the compressed bytes of a whole row group are held.
    return parquet.ParquetFile(
        stream,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        page_checksum_verification=True,
        coerce_int96_timestamp_unit="us",  # nanoseconds would end in 2262
    )


def _parquet_columns(file: File) -> list[tuple[str, Any]]:
    with file.open() as stream:
        return [(field.name, field.type) for field in _parquet(stream).schema_arrow]


def _parquet_parts(file: File) -> list[Part]:
    parts, first_row = [], 1
    with file.open() as stream:
        metadata = _parquet(stream).metadata
        for group in range(metadata.num_row_groups):
            n_rows = metadata.row_group(group).num_rows
            parts.append(Part(file, first_row, n_rows, group))
            first_row += n_rows
    return parts


def _parquet_batches(part: Part, names: Sequence[str]) -> Iterator[Any]:
    with part.file.open() as stream:
        reader = _parquet(stream)
        for batch in reader.iter_batches(
            block_rows(len(names)), row_groups=[part.group], columns=list(names)
        ):
            # That text is UTF-8 is not checked by the reader.
            batch.validate(full=True)
            yield batch


def _ipc_columns(file: File) -> list[tuple[str, Any]]:
    from pyarrow import ipc

    with file.open() as stream:
        return [(field.name, field.type) for field in ipc.open_file(stream).schema]


def _ipc_parts(file: File) -> list[Part]:
    from pyarrow import ipc

    with file.open() as stream:
        reader = ipc.open_file(stream)
        if hasattr(reader, "count_rows"):
            return [Part(file, 1, int(reader.count_rows()))]
        # Older versions of pyarrow count what they read: one column is enough.
        reader = ipc.open_file(stream, options=ipc.IpcReadOptions(included_fields=[0]))
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        return [Part(file, 1, sum(batch.num_rows for batch in batches))]


def _ipc_batches(part: Part, names: Sequence[str]) -> Iterator[Any]:
    with part.file.open() as stream:
        n_rows = block_rows(len(names))
        for batch in _checked_ipc(stream, names):
            for start in range(0, batch.num_rows, n_rows):
                yield batch.slice(start, n_rows)


def _mapped_ipc_batches(part: Part, names: Sequence[str]) -> Iterator[Any]:
    """Numbers that are not compressed are not looked at, and cost nothing however many they are."""
    from pyarrow import memory_map

    with memory_map(part.file.path) as stream:
        yield from _checked_ipc(stream, names)


def _checked_ipc(stream: Arrow, names: Sequence[str]) -> Iterator[Any]:
    from pyarrow import ipc

    known = ipc.open_file(stream).schema.names
    first = {name: at for at, name in reversed(list(enumerate(known)))}
    fields = sorted(first[name] for name in names)
    reader = ipc.open_file(stream, options=ipc.IpcReadOptions(included_fields=fields))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        # Nothing in an IPC file is checked before it is used, offsets included.
        batch.validate(full=True)
        yield batch


PARQUET = Format("Parquet", (".parquet", ".pq"), b"PAR1", _parquet_columns, _parquet_parts, _parquet_batches)
ARROW = Format(
    "Arrow",
    (".arrow", ".feather", ".ipc"),
    b"ARROW1",
    _ipc_columns,
    _ipc_parts,
    _ipc_batches,
    _mapped_ipc_batches,
)

FORMATS = {form.name: form for form in (PARQUET, ARROW)}
