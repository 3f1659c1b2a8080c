"""CSV files, read by pyarrow as text, a block at a time; their types are settled elsewhere.

pyarrow guesses types from the first block and fails on the first value that is not so, with neither
row nor file. So every column is read as text, in blocks, and values are converted by us: what fails
is then known by file, row and column.
"""

import codecs
import contextlib
import csv
import dataclasses
import functools
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mlp_xp.machine import main_memory
from mlp_xp.rows.files import Arrow, File
from mlp_xp.settings import checks
from mlp_xp.settings.spelling import given
from mlp_xp.tables.files.blocks import Part, TableBlock, TableFile
from mlp_xp.tables.files.csv_parts import PartOfFile, parts_of
from mlp_xp.tables.files.one_value import Gaps
from mlp_xp.tables.files.signatures import reading, seems_to_be
from mlp_xp.tables.files.text_values import READINGS, without_gaps

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".csv.bz2", ".csv.zst", ".tsv.gz")
DELIMITERS = (",", ";", "\t", "|")

# Bytes that are parsed together (pyarrow holds some 50 times as many), but at least so many times the
# line of names, and no more than that: a line must be shorter than a block.
BLOCK_BYTES = 1 << 20
_LINES = 64
_LARGEST_BLOCK = 64 << 20

# Bytes from which the form is recognised.
_SAMPLE_BYTES = 1 << 20

_WRONG_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
"""What pyarrow says of a row with too few or too many values."""

# Bytes of a line of names from which pyarrow does not read it: it guesses types, which takes 10 kB of memory
# for each column.
_LONG_NAMES = 1 << 17

# Bytes that pyarrow takes for each column, however few rows there are; and characters of words for gaps, of
# all columns, from which these are found afterwards: they would take 8 kB more of each column, and pyarrow
# ends the process at 360,000 of one.
_COLUMN_BYTES, _MANY_CHARACTERS = 5_000, 1 << 18

# Bytes of a file in which the line of a row is still counted, for messages (a second or so).
_COUNTED_BYTES = 100_000_000


@dataclasses.dataclass(frozen=True)
class CsvForm:
    """How the values of a CSV file are written.

    Parameters
    ----------
    delimiter : str, optional
        One character between values; recognised from the first lines if not given.
    decimal : {".", ","}, optional
        The decimal mark; recognised from the values of each column if not given.
    encoding : str, optional
        Of the text: UTF-8, or what a byte order mark says, if not given.
    null : tuple of str
        What stands for a missing value, beside nothing, `?`, `NA`, `NaN`, `null`, `None` and the
        like. A typed file's numbers and texts of these are gaps too.
    date_format : {"day first", "month first"}, optional
        How 01/02/2024 is read; needed only where all dates of a column fit both.
    null_words : bool
        Whether `NA`, `None` and the like are gaps in columns of text; if not they are texts there, as
        Namibia's `NA`. Nothing is always a gap.
    """

    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    null: tuple[str, ...] = ()
    date_format: str | None = None
    null_words: bool = True

    def __post_init__(self) -> None:
        """Check all of it."""
        problems: list[str | None] = []
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            problems.append(f"{given('delimiter', self.delimiter)} must be one character, such as ';'.")
        if self.decimal is not None:
            problems.append(checks.one_of("decimal", self.decimal, (".", ",")))
        if self.date_format is not None:
            known = ("day first", "month first")
            problems.append(checks.one_of("date_format", self.date_format, known))
        if self.encoding is not None and not _is_encoding(self.encoding):
            problems.append(f"{given('encoding', self.encoding)} is not known; try 'utf-8' or 'latin-1'.")
        checks.refuse(problems)

    @property
    def gaps(self) -> Gaps:
        """What stands for a gap."""
        return Gaps(self.null, self.null_words)


def _is_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
    except (LookupError, ValueError):
        return False
    return True


def recognise(file: File, form: CsvForm) -> tuple[CsvForm, int]:
    """The form with encoding and delimiter filled in from the first lines; bytes of the first."""
    with reading(file), file.open_stream() as stream:
        start = stream.read(_SAMPLE_BYTES)
    if not start.strip().removeprefix(codecs.BOM_UTF8).removeprefix(codecs.BOM_UTF16_LE):
        raise ValueError(f"{file.path} is empty: a line of column names and at least one row are needed.")
    encoding = form.encoding or _encoding(file, start)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start)
    lines = text.split("\n")
    whole_lines = lines if len(start) < _SAMPLE_BYTES else lines[:-1]
    delimiter = form.delimiter or _delimiter(file, whole_lines or [text])
    recognised = dataclasses.replace(form, encoding=encoding, delimiter=delimiter)
    return recognised, len(lines[0])


def _encoding(file: File, start: bytes) -> str:
    if not _is_plain(start) and (known := seems_to_be(start)):
        raise ValueError(f"{file.path} is no CSV file: {known}.")
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32"),  # which begins with that of UTF-16
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if start.startswith(mark):
            return name
    if b"\0" in start:
        likely = _with_zero_bytes(start)
        remedy = f"It reads as text with {given('encoding', likely)}." if likely else "It is no CSV file."
        raise ValueError(f"{file.path} is no text in UTF-8: it holds zero bytes. {remedy}")
    return "utf-8"


def _is_plain(start: bytes) -> bool:
    """Whether bytes are text in UTF-8, as far as they go: PAR1 may be the name of a column."""
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeError:
        return False


def _with_zero_bytes(start: bytes) -> str:
    """The encoding, of those in which plain letters have zero bytes, that gives a line end; or nothing."""
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        with contextlib.suppress(UnicodeError):
            text = codecs.getincrementaldecoder(name)().decode(start)
            if "\n" in text and "\0" not in text:
                return name
    return ""


def _delimiter(file: File, lines: Sequence[str]) -> str:
    found = [each for each in DELIMITERS if each in lines[0]]
    if len(found) <= 1:
        return found[0] if found else ","
    # Several in the line of names: the one that cuts every line into as many values.
    even = [each for each in found if _cuts_evenly(lines, each)]
    if len(even) == 1:
        return even[0]
    if "," in even or not even:
        return "," if "," in found else found[0]
    raise ValueError(
        f"{file.path} can be cut at any of {', '.join(map(repr, even))}; name the delimiter, e.g. "
        f"{given('delimiter', even[0])}."
    )


def _cuts_evenly(lines: Sequence[str], delimiter: str) -> bool:
    try:
        return len({len(row) for row in csv.reader(lines, delimiter=delimiter)}) == 1
    except csv.Error:  # a line end inside a line, a value of more than 128 kB
        return False


class CsvTable(TableFile):
    """CSV files with the same columns as one table of text: read one after the other, columns by name.

    What the form leaves open is recognised from the first file.
    """

    def __init__(self, files: Sequence[File], form: CsvForm) -> None:
        self.files = list(files)
        self.gaps = form.gaps
        self._known: dict[File, list[str]] = {}
        self.form, names_bytes = recognise(self.files[0], form)
        self._names_are_long = names_bytes > _LONG_NAMES
        self._block_bytes = max(BLOCK_BYTES, min(_LINES * names_bytes, _LARGEST_BLOCK))
        self.names = self._names(self.files[0])
        self.readings = self._readings()
        self.marks_are_open = self.form.decimal is None and self.form.delimiter != ","
        self.note = f"delimiter {self.form.delimiter!r}, encoding {self.form.encoding}"

    def _readings(self) -> list[str]:
        """What a column can be read as, in order of preference."""
        form, left_out = self.form, set()
        if form.decimal == ",":
            left_out |= {name for name in READINGS if name.endswith("decimal point")}
        elif form.decimal == "." or form.delimiter == ",":  # quoted decimal commas are rather a mistake
            left_out |= {name for name in READINGS if name.endswith("decimal comma")}
        if form.date_format is not None:
            left_out |= {"date, day first", "date, month first"} - {f"date, {form.date_format}"}
        return [name for name in READINGS if name not in left_out]

    def _open(self, stream: Arrow, names: Sequence[str] | None, known: Sequence[str] | None = None) -> Any:
        """A reader of the columns `names`; those of the stream are `known`, or are its first line."""
        from pyarrow import csv as arrow_csv
        from pyarrow import string

        convert = arrow_csv.ConvertOptions()
        if names is not None:
            convert = arrow_csv.ConvertOptions(
                include_columns=list(names),
                column_types=dict.fromkeys(names, string()),
                check_utf8=False,  # it would not say where: see `_check_text`
                null_values=[] if self._finds_gaps_later(names) else sorted(self.gaps.in_text),
                strings_can_be_null=True,
            )
        return arrow_csv.open_csv(
            stream,
            # One thread, for with several pyarrow does not say in which row a mistake is.
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=self._block_bytes,
                encoding=self.form.encoding,
                column_names=known,
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=self.form.delimiter, newlines_in_values=True),
            convert_options=convert,
        )

    def _finds_gaps_later(self, names: Sequence[str]) -> bool:
        """Whether the reader of some columns does not know what stands for a gap."""
        return len(names) * sum(map(len, self.gaps.in_text)) > _MANY_CHARACTERS

    def _names(self, file: File) -> list[str]:
        if file not in self._known:
            with self._reading(file), file.open_stream() as stream:
                if self._names_are_long:
                    self._known[file] = next(filter(None, self._lines(stream)))
                else:
                    self._known[file] = list(self._open(stream, None).schema.names)
        return self._known[file]

    @contextlib.contextmanager
    def _reading(self, file: File, first_row: int = 0) -> Iterator[None]:
        """Like `reading`, with the row of what is no CSV; a stream starts with the names, or with a row."""
        import pyarrow as pa

        with reading(file):
            try:
                yield
            except csv.Error as error:
                raise ValueError(
                    f"{file.path} has a line of column names that cannot be read: {error}."
                ) from None
            except UnicodeError as error:
                raise ValueError(
                    f"{file.path} is not written in the encoding that it is read with ({error}). Name "
                    f"the right one, e.g. {given('encoding', 'latin-1')}."
                ) from None
            except pa.ArrowInvalid as error:
                if wrong := _WRONG_ROW.search(str(error)):
                    number, *others = wrong.groups()
                    row = first_row + int(number) - 1
                    raise ValueError(self._wrong_row(file, row, *others)) from None
                if "Empty CSV file" in str(error):
                    raise ValueError(
                        f"{file.path} has no row below its first line: a line of column names and at least "
                        "one row are needed."
                    ) from None
                if "straddl" in str(error):
                    line = self._long_line(file)
                    where = f"line {line:,}" if line else "a quoted text that is never closed"
                    raise ValueError(
                        f"{file.path}: {where} is longer than {self._block_bytes >> 20} MiB. Mend it, or "
                        f"leave it out."
                    ) from None
                raise

    def _long_line(self, file: File) -> int | None:
        """The number of the first line that is longer than a block; None if there is none."""
        line, length = 1, 0
        with file.open_stream() as stream:
            while chunk := stream.read(BLOCK_BYTES):
                first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
                length += len(chunk) if first < 0 else first
                if length > self._block_bytes:
                    return line
                if last >= 0:
                    line, length = line + chunk.count(b"\n"), len(chunk) - last - 1
        return None

    @functools.cached_property
    def parts(self) -> list[Part]:
        """What can be read on its own: each file, or some lines of it."""
        if not _same(self.form.encoding, "utf-8"):
            return [Part(file) for file in self.files]
        return [part for file in self.files for part in parts_of(file, self._block_bytes)]

    def blocks(self, names: Sequence[str], parts: Sequence[Part] | None = None) -> Iterator[TableBlock]:
        """The rows of the columns `names` as strings, file by file (of `parts`, if given)."""
        parts = [Part(file) for file in self.files] if parts is None else parts
        n_bytes, before = max(1, sum(map(_n_bytes, parts))), 0
        for part in parts:
            for block in self._blocks_of(part, names):
                done = before + block.share * _n_bytes(part)
                yield dataclasses.replace(block, share=min(1.0, done / n_bytes))
            before += _n_bytes(part)

    def _blocks_of(self, part: Part, names: Sequence[str]) -> Iterator[TableBlock]:
        import pyarrow as pa

        file, known = part.file, self._names(part.file)
        there = set(known)
        if missing := [name for name in names if name not in there]:
            raise ValueError(
                f"{file.path} has no column {missing[0]!r}, which {self.files[0].path} has; "
                f"{checks.did_you_mean(missing[0], known)}."
            )
        # The last column as well: a quote that is never closed shows in its last value alone.
        read = list(dict.fromkeys((*names, known[-1])))
        main_memory.require(_COLUMN_BYTES * len(read), f"reading {len(read):,} columns of a CSV file")
        n_rows, last_value = 0, b""
        is_first = part.start == 0
        with self._reading(file, 0 if is_first else part.first_row), _stream(part) as stream:
            batches = self._open(stream, read, None if is_first else known)
            for number, batch in enumerate(batches, start=1):
                if not batch.num_rows:
                    continue
                share = min(1.0, number * self._block_bytes / max(1, _n_bytes(part)))
                last_value = bytes(batch.column(known[-1])[-1].as_buffer() or b"")
                chosen = batch.select(list(names))
                if self._finds_gaps_later(read):
                    columns = [without_gaps(column, self.gaps.in_text) for column in chosen.columns]
                    chosen = pa.RecordBatch.from_arrays(columns, names=list(names))
                block = TableBlock(file, part.first_row + n_rows, chosen, share, self._line_counter(file))
                self._check_text(block)
                yield block
                n_rows += batch.num_rows
        if n_rows == 0 and part.stop is None:
            raise ValueError(f"{file.path} has a line of column names and no rows below it.")
        if b"\n" in last_value and not self._is_closed(file):
            raise ValueError(
                f"{file.path}, row {n_rows:,}, column {known[-1]!r}: a quoted text begins here that "
                f"is never closed, so that the rest of the file would be one value. Close the quote."
            )

    def _check_text(self, block: TableBlock) -> None:
        """Refuse what is no UTF-8."""
        import pyarrow as pa

        try:
            block.batch.validate(full=True)
        except pa.ArrowInvalid:
            columns = [column.view(pa.binary()) for column in block.batch.columns]
            batch = pa.RecordBatch.from_arrays(columns, names=block.batch.schema.names)
            at, number = next(
                (at, number)
                for number, column in enumerate(columns)
                for at, value in enumerate(column)
                if not _is_utf8(value.as_py())
            )
            place = dataclasses.replace(block, batch=batch).place(at, number)
            raise ValueError(
                f"{place}, which is no UTF-8. Name the encoding of the file, e.g. "
                f"{given('encoding', 'latin-1')}."
            ) from None

    def _wrong_row(self, file: File, row: int, expected: str, actual: str, text: str) -> str:
        with file.open_stream() as stream:
            names: list[str] = next(self._lines(stream), [])
        line = self._line_counter(file)(row)
        missing = names[int(actual)] if int(actual) < len(names) else None
        return (
            f"{file.path}, row {row:,}{f' (line {line:,})' if line else ''} has {actual} values, but "
            f"there are {expected} columns"
            f"{f' (the first that is missing is {missing!r})' if missing is not None else ''}: "
            f"{text[:60]!r}. Mend that row, or name the delimiter."
        )

    def _lines(self, stream: Arrow, *, strict: bool = False) -> Any:
        """A reader of the standard library over the same text; slow, and it counts lines."""
        encoding = "utf-8-sig" if _same(self.form.encoding, "utf-8") else self.form.encoding
        text = io.TextIOWrapper(stream, encoding, errors="replace", newline="")
        return csv.reader(text, delimiter=self.form.delimiter or ",", strict=strict)

    def _line_counter(self, file: File) -> Any:
        def line_of(row: int) -> int | None:
            if file.size > _COUNTED_BYTES:
                return None
            with file.open_stream() as stream:
                lines, count, end = self._lines(stream), -1, 0
                with contextlib.suppress(csv.Error):
                    for values in lines:
                        start, end = end + 1, lines.line_num
                        # As pyarrow counts: empty lines are no rows, the names are row 0.
                        count += bool(values)
                        if values and count == row:
                            return start
            return None

        return line_of

    def _is_closed(self, file: File) -> bool:
        """Whether every quoted text ends before the file does, as far as that can be told."""
        if file.size > _COUNTED_BYTES:
            return True
        with file.open_stream() as stream:
            try:
                for _ in self._lines(stream, strict=True):
                    pass
            except csv.Error as error:
                return "end of data" not in str(error)
        return True


def _stream(part: Part) -> Any:
    return part.file.open_stream() if part.stop is None else PartOfFile(part.file, part.start, part.stop)


def _n_bytes(part: Part) -> int:
    return part.file.size if part.stop is None else part.stop - part.start


def _same(encoding: str | None, other: str) -> bool:
    return codecs.lookup(encoding or "utf-8") == codecs.lookup(other)


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
