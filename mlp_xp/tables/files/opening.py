"""`open_source`: whatever a path holds, as a source of rows."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mlp_xp.machine import main_memory
from mlp_xp.rows.arrays import Array
from mlp_xp.rows.files import File, find_files, pyarrow
from mlp_xp.rows.numpy_files import open_npy, open_npz
from mlp_xp.rows.source import Source
from mlp_xp.rows.streams import BUFFER_ROWS, BatchSource
from mlp_xp.settings import checks
from mlp_xp.settings.options import written
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.arrow_files import ARROW, FORMATS
from mlp_xp.tables.files.arrow_map import ArrowSource, is_mappable
from mlp_xp.tables.files.blocks import TableFile
from mlp_xp.tables.files.class_names import ClassNames
from mlp_xp.tables.files.column_kinds import LABEL, ColumnKinds, Progress, settle
from mlp_xp.tables.files.columns import PLURAL, RawColumn, as_names, meant, select
from mlp_xp.tables.files.csv_files import SUFFIXES as CSV_SUFFIXES
from mlp_xp.tables.files.csv_files import CsvForm, CsvTable
from mlp_xp.tables.files.one_value import is_number, looks_like, resembles_number, resembles_time
from mlp_xp.tables.files.partitions import PartitionedTable
from mlp_xp.tables.files.records import Converter, Schema, schema_of
from mlp_xp.tables.files.sandbox import read_in_sandbox
from mlp_xp.tables.files.table_cache import cache_folder, cache_path, open_records, write_records
from mlp_xp.tables.files.table_source import TableSource
from mlp_xp.tables.files.table_stream import TableStream
from mlp_xp.tables.files.text_values import kind_of_reading
from mlp_xp.tables.files.typed_table import TypedTable

MEMORY_LIMIT = 1 << 30
"""Bytes that a table may take in memory if nothing else is said: 1 GiB."""

READERS_BYTES = 512 << 20
"""Memory that must be there to read a table: with less, pyarrow's threads crash or wait for ever."""

SUFFIXES = {"CSV": CSV_SUFFIXES} | {name: form.suffixes for name, form in FORMATS.items()}
"""How files of each format end."""

LEAST_BUFFER_BYTES = 1 << 26
"""Bytes of a stream's rows that are shuffled together, however little memory there may be: 64 MiB."""

TABLE_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

MOST_LEVELS_LOOKED_AT = 1000
"""Texts of a column of which it is said what they look like."""

FEW_WORDS, FEW_COLUMNS = 3, 10
"""Words among numbers that may all stand for a gap; columns of such that an error names."""

SHEETS = (".xlsx", ".xls", ".ods")
"""Ends of names of spreadsheets, which are not read."""


def open_source(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    columns: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    weight_column: str | None = None,
    dtype: str = "float32",
    text: str = "refuse",
    gaps: str = "refuse",
    kinds: Mapping[str, str] | None = None,
    memory_limit: int = MEMORY_LIMIT,
    cache: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    csv: CsvForm | None = None,
    progress: Progress | None = None,
) -> Source:
    """Open a file, a folder, a glob or a remote address as a source of rows.

    ==========================  =================================================================
    `x.npy`                     mapped into memory; `target` is the path of `y.npy`
    `.npz`                      arrays x, y and sample_weight in memory; `target` names another y
    `.csv`, `.tsv` (.gz ...)    read by pyarrow; columns by name
    `.parquet`, `.arrow` ...    read by pyarrow (`arrow_files.FORMATS`); columns by name
    ==========================  =================================================================

    A folder's files are one table, with a column for each `NAME=VALUE` among its folders' names.

    A table whose rows fit `memory_limit` is kept in memory and leaves no file. A larger one is
    written once to a file of records in the cache folder, which is mapped into memory, so that any
    row can be had at any time; the file is found again as long as the data and these options are
    the same. With ``cache=False`` it is streamed instead, parts in random order, rows shuffled
    within a buffer (`BatchSource`). Types are settled over the whole table first. Data files are
    never written.

    Parameters
    ----------
    path : path
        What to open.
    target : str or sequence of str, optional
        Names of the columns that are y; none for data to predict.
    columns, exclude : str or sequence of str, optional
        Features to use, in that order (all others by default), and columns to leave out.
    weight_column : str, optional
        Column of sample weights (for `.npy` the path of another one).
    dtype : {"float32", "float64"}
        Of the numbers that are kept.
    text : {"refuse", "code", "code if clear"}
        What to do with features that are text: an error, or their codes 0, 1, ... in `x`; "if clear" is an
        error where most of the texts are numbers and `kinds` does not say that they are text. The texts
        of targets are always coded; `source.targets[0].levels` has them.
    gaps : {"refuse", "keep", "keep all"}
        What to do with features that are missing: an error, or NaN in `x` (-1 for text).
    kinds : mapping of str to str, optional
        What some columns are known to be (`columns.KINDS`), or how they are read (`text_values.READINGS`):
        numbers are read as text where that is said; anything else that is not as it is said is an error. A
        "label" has the texts of its values as levels, and a reading that says whether they are numbers too.
    memory_limit : int
        Bytes that the rows may take in memory.
    cache : bool
        Whether a table above the limit may be written to the cache folder.
    cache_dir : path, optional
        The cache folder, instead of the user's own for caches.
    csv : CsvForm, optional
        How a CSV file is written, where it can not be recognised.
    progress : callable (str, float), optional
        Called with what is being done and the share of it that is done.

    Raises
    ------
    ValueError
        The file is damaged, empty or of an unknown format, a column does not exist, a value can not
        be used; file, row and column are named.
    FileNotFoundError, PermissionError
        It can not be opened.
    RuntimeError
        The cache can not be written, or the data changed while it was read.
    ImportError
        pyarrow is not installed.
    """
    checks.refuse(
        [
            checks.one_of("dtype", dtype, ("float32", "float64")),
            checks.one_of("text", text, ("refuse", "code", "code if clear")),
            checks.one_of("gaps", gaps, ("refuse", "keep", "keep all")),
            checks.whole("memory_limit", memory_limit, least=0),
        ]
    )
    suffix = Path(path).suffix.lower()
    if suffix in (".npy", ".npz"):
        named = {"columns": columns, "exclude": exclude, "csv": csv}
        if used := [name for name, value in named.items() if value is not None]:
            raise ValueError(f"{', '.join(used)}: the columns of {suffix} files have no names.")
        one, names = _one_name(target), ClassNames()
        if suffix == ".npy":
            arrays = open_npy(path, one, weight_column, names.numbers)
        else:
            arrays = open_npz(path, one, weight_column, memory_limit, names.numbers)
        arrays.targets = names.columns
        return arrays

    main_memory.require(READERS_BYTES, "reading a table")
    pyarrow()
    files = find_files(path, TABLE_SUFFIXES)
    form, table = table_of(files, csv or CsvForm())
    where = os.fspath(path)
    indices = [] if columns is not None else _indices_of_pandas(table.names, target, weight_column)
    selection = select(
        table.names,
        where,
        target=_names(target),
        columns=columns,
        exclude=(*as_names(exclude), *indices),
        weight_column=weight_column,
        described=kinds or {},
    )
    own_names = meant(kinds or {}, table.names)
    kinds = {own_names[name]: kind for name, kind in (kinds or {}).items()}
    notes = [f"{Path(where).name}: {table.note}"] if table.note else []
    if form is not None and _may_be_a_row(table.names):
        notes.append(
            f"{Path(where).name}: its first line is taken for names of columns "
            f"({checks.listed(table.names, 20)}); if it is a row, write a line of names above it"
        )
    notes += [f"column {name!r}, the index of a pandas frame, is left out" for name in indices]
    options = {
        "columns": [selection.features, selection.targets, selection.weight],
        "dtype": dtype,
        "gaps": gaps,
        "kinds": kinds,
        "csv": None if form is None else dataclasses.asdict(form),
    }
    kept_at = cache_path(cache_folder(cache_dir), files, options)
    if cache:
        source = _from_cache(kept_at, files, notes)
        if source is not None:
            _refuse_text(source.schema, where, text, {}, kinds)
            return source
    in_files = table.table if isinstance(table, PartitionedTable) else table
    if isinstance(in_files, TypedTable):
        there = set(in_files.names)
        read_in_sandbox(in_files, [name for name in selection.names if name in there])
    settled = settle(table, selection.names, progress, kinds)
    if text == "code if clear" and (dates := _dates_as_texts(settled, selection.features, kinds)):
        settled = settle(table, selection.names, progress, {**kinds, **dates})
    _refuse_other_kinds(settled, kinds, where)
    notes += [*settled.notes, *_readings_that_surprise(settled)]
    schema = schema_of(settled, selection, dtype)
    _refuse_text(schema, where, text, settled.first_text, kinds)
    notes += _texts_that_surprise(schema, kinds)
    converted = TableStream(table, Converter(schema, table, settled.known, gaps))
    n_bytes = settled.n_rows * schema.record.itemsize
    if n_bytes <= memory_limit:
        records = _in_memory(converted, settled.n_rows, progress)
        _release_memory()
        notes.append(f"{checks.counted(settled.n_rows, 'row')} in memory ({n_bytes:,} bytes)")
        return TableSource(records, schema, files, notes)
    if isinstance(table, TypedTable) and table.form is ARROW and is_mappable(files, selection.names):
        notes.append(f"{settled.n_rows:,} rows are read where they are, by memory maps")
        return ArrowSource(files, schema, notes, gaps)
    if not cache:
        buffer_rows = max(
            1, min(BUFFER_ROWS, max(memory_limit, LEAST_BUFFER_BYTES) // schema.record.itemsize)
        )
        notes.append(
            f"{settled.n_rows:,} rows are read from their files in each epoch: parts in random order, rows "
            f"shuffled within {buffer_rows:,}; the cache would shuffle all of them, and be faster"
        )
        stream = TableStream(table, converted.converter, notes)
        return BatchSource(stream, n_rows=settled.n_rows, buffer_rows=buffer_rows, check=gaps == "refuse")
    write_records(kept_at, schema, settled.n_rows, where, converted.records(progress))
    _release_memory()
    written = _from_cache(kept_at, files, notes)
    if written is None:
        raise RuntimeError(f"the cache file {str(kept_at)!r} was deleted as soon as it was written.")
    return written


def _may_be_a_row(names: Sequence[str]) -> bool:
    """Whether most names are numbers, and not all of these whole, as years are."""
    numbers = [name for name in names if is_number(name)]
    return len(numbers) > len(names) / 2 and any("." in name for name in numbers)


def _indices_of_pandas(
    names: Sequence[str], target: str | os.PathLike[str] | Sequence[str] | None, weight_column: str | None
) -> list[str]:
    """Columns that pandas adds where a frame's index has no name, unless they are asked for."""
    named = (*as_names(_names(target)), weight_column)
    return [name for name in names if re.fullmatch(r"__index_level_\d+__", name) and name not in named]


def _one_name(target: str | os.PathLike[str] | Sequence[str] | None) -> str | None:
    if target is None or isinstance(target, str | os.PathLike):
        return None if target is None else os.fspath(target)
    if len(target) != 1:
        raise ValueError(f"target={target!r}: one array holds all targets; give one.")
    return target[0]


def _names(target: str | os.PathLike[str] | Sequence[str] | None) -> str | Sequence[str] | None:
    return os.fspath(target) if isinstance(target, os.PathLike) else target


def names_in(path: str | os.PathLike[str], form: CsvForm) -> list[str]:
    """The names of a table's columns."""
    return table_of(find_files(path, TABLE_SUFFIXES), form)[1].names


def table_of(files: Sequence[File], given: CsvForm) -> tuple[CsvForm | None, TableFile]:
    """How CSV files are written, and the files as one table, with the columns that folders' names hold."""
    table = _table(files, given)
    form = table.form if isinstance(table, CsvTable) else None
    has_partitions = any("=" in folder for file in files for folder in file.folders)
    return form, PartitionedTable(table) if has_partitions else table


def _table(files: Sequence[File], form: CsvForm) -> TableFile:
    """The files as one table; ValueError unless all are of one format that is known."""
    found: dict[str, File] = {}
    for file in files:
        name = next((name for name, ends in SUFFIXES.items() if file.name.lower().endswith(ends)), None)
        found.setdefault(name or "", file)
        if name is None:
            known = ", ".join((".npy", ".npz", *TABLE_SUFFIXES))
            sheet = " Save the sheet as CSV." if file.name.lower().endswith(SHEETS) else ""
            raise ValueError(f"{file.path} is of no known format; files end in one of {known}.{sheet}")
    if len(found) > 1:
        listed = ", ".join(f"{name} ({file.path})" for name, file in found.items())
        raise ValueError(f"files of several formats in one table: {listed}. Name those of one.")
    if "CSV" in found:
        return CsvTable(files, form)
    return TypedTable(files, FORMATS[next(iter(found))], form.gaps)


def _from_cache(kept_at: Path, files: Sequence[File], notes: list[str]) -> TableSource | None:
    """The source whose records were kept before, if they were and are whole."""
    try:
        schema, records, file = open_records(kept_at)
    except OSError:
        # None, or none that we may read; what stands in the way is said when it is written.
        return None
    except ValueError as error:
        notes.append(f"the cache file {str(kept_at)!r} is not used: {error}")
        return None
    size = f"{len(records):,} rows, {file.size:,} bytes"
    return TableSource(
        records, schema, files, [*notes, f"rows are read from the cache: {kept_at} ({size})"], file
    )


def _dates_as_texts(
    settled: ColumnKinds, features: Sequence[str], kinds: Mapping[str, str]
) -> dict[str, str]:
    """Columns of texts, in a file or frame that has types, that look like dates, and that they are dates."""
    unsaid = {name: settled.columns[name] for name in features if name not in kinds}
    return {
        name: "date"
        for name, column in unsaid.items()
        if column.kind == "text" and column.levels and all(map(resembles_time, column.levels))
    }


def _refuse_text(
    schema: Schema, where: str, text: str, first_text: dict[str, str], kinds: Mapping[str, str] | None
) -> None:
    found = [column for column in schema.features if column.kind == "text"]
    if text == "code if clear":
        unsaid = [each for each in found if each.name not in (kinds or {})]
        found = [each for each in unsaid if _are_mostly_typed(each.levels)]
    if text == "code" or not found:
        return
    named = [each.name for each in found]
    places = [first_text.get(each.name, f"{where}, column {each.name!r} {_shown(each)}") for each in found]
    option = given("text", written(named)) if len(found) <= FEW_COLUMNS else spelled("text")
    are_text = f"say that they are text ({option})"
    words = sorted({level for each in found for level in each.levels if not _is_typed(level)})
    if text == "refuse":
        remedy = "have their texts coded (text='code')"
    elif 0 < len(words) <= FEW_WORDS:
        remedy = f"{are_text}, or what stands for a gap in them ({given('null', written(words))})"
    elif all(each.name not in first_text for each in found):  # of a type, as in a frame
        remedy = f"{are_text}, or store them as dates or numbers (with pandas to_datetime and to_numeric)"
    else:
        remedy = f"{are_text} or what the decimal mark is ({given('decimal', ',')})"
    wrong = [
        f"{place}, where a {_needed(each.levels)} is needed."
        for place, each in zip(places, found, strict=True)
    ]
    if (n_more := len(wrong) - FEW_COLUMNS) > 0:
        wrong[FEW_COLUMNS:] = [f"... and {checks.counted(n_more, 'column')} more."]
    raise ValueError(
        "\n".join([*wrong, f"Mend it, leave such columns out with {spelled('exclude')}, or {remedy}."])
    )


def _shown(column: RawColumn) -> str:
    """What a column holds that is unlike most of it; that it is text, if all of it is alike."""
    others = [level for level in column.levels if not _is_typed(level)]
    return f"holds {others[0]!r}" if 0 < len(others) < len(column.levels) else "is text"


def _needed(levels: Sequence[str]) -> str:
    """What most of some texts look like."""
    return "date or a time" if sum(map(resembles_time, levels)) > len(levels) / 2 else "number"


def _is_typed(level: str) -> bool:
    return resembles_number(level) or resembles_time(level)


def _are_mostly_typed(levels: Sequence[str]) -> bool:
    """Whether more than half look like numbers, or like dates: then there is rather a mistake than a text."""
    if len(set(map(len, levels))) == 1 and all(map(str.isdecimal, levels)):
        return False  # codes with leading zeros, else they were numbers
    most = len(levels) / 2
    return any(sum(map(resembles, levels)) > most for resembles in (resembles_number, resembles_time))


def _refuse_other_kinds(settled: ColumnKinds, kinds: Mapping[str, str], where: str) -> None:
    """Refuse columns that are not what they are known to be; numbers and booleans are alike."""
    alike = {"bool": ("bool", "number"), "number": ("bool", "number")}
    wrong = []
    for name, known in kinds.items():
        kind = kind_of_reading(known)
        if kind == LABEL:
            continue
        found = settled.columns[name].kind if name in settled.columns else kind
        if found not in alike.get(kind, (kind,)):
            place = settled.first_text.get(name, f"{where}, column {name!r} holds {PLURAL[found]}")
            wrong.append(f"{place}, where {PLURAL[kind]} are needed.")
    checks.refuse(wrong)


def _readings_that_surprise(settled: ColumnKinds) -> list[str]:
    usual = ("number with a decimal point", "boolean", "date, year first", "text", "text of numbers")
    return [
        f"column {name!r} is read as {column.reading}"
        for name, column in settled.columns.items()
        if column.reading not in usual and name not in settled.known
    ]


def _texts_that_surprise(schema: Schema, kinds: Mapping[str, str]) -> Iterator[str]:
    """Texts of which most are numbers or dates to a person, in a form that is not read."""
    for column in schema.features:
        if column.kind == "text" and column.name not in kinds:
            seen = column.levels[:MOST_LEVELS_LOOKED_AT]
            found = {level: like for level in seen if (like := looks_like(level))}
            if len(found) > len(seen) / 2 and not all(map(str.isdecimal, seen)):
                level, like = next(iter(found.items()))
                plain = {"numbers": "1234.5", "dates": "2024-01-31"}[like]
                yield (
                    f"column {column.name!r} is read as text, though most of its values look like {like}, "
                    f"such as {level!r}: these are read where they are written as {plain}"
                )


def _release_memory() -> None:
    """Have pyarrow give back what it keeps for the next table: 100 MB after a large one."""
    pyarrow().default_memory_pool().release_unused()


def _in_memory(stream: TableStream, n_rows: int, progress: Progress | None) -> Array:
    records = np.empty(n_rows, stream.converter.schema.record)
    filled = 0
    for block in stream.records(progress):
        records[filled : filled + len(block)] = block[: n_rows - filled]
        filled += len(block)
    if filled != n_rows:
        raise RuntimeError(
            f"{stream.table.files[0].path} was changed while it was read: {n_rows:,} rows at first, "
            f"{filled:,} now. Start again when nothing writes to it."
        )
    return records
