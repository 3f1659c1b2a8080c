"""How the values of a table are written: settled in training, kept in the model for the next table."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from mlp_xp.settings import checks
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.files.csv_files import CsvForm
from mlp_xp.tables.files.one_value import MEANINGS, Gaps

TEXT = ("text", "text of numbers")
"""Readings of columns of text."""


@dataclasses.dataclass(frozen=True)
class Written:
    """How the columns of a table are read, and what stands for a gap.

    Attributes
    ----------
    readings : mapping of str to str
        By column, features and targets: one of `MEANINGS` or `TEXT`. A column that is not in it is of a model
        from before readings were kept, or of arrays: it is read as its kind allows.
    """

    readings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    gaps: Gaps = dataclasses.field(default_factory=Gaps)

    @classmethod
    def of_columns(cls, columns: Iterable[RawColumn], form: CsvForm | None) -> "Written":
        """What was settled of some columns."""
        gaps = Gaps() if form is None else form.gaps
        return cls({column.name: column.reading for column in columns if column.reading}, gaps)

    def description(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "readings": dict(self.readings),
            "null": list(self.gaps.null),
            "null_words": self.gaps.words,
        }

    @classmethod
    def of(cls, description: Mapping[str, Any] | None) -> "Written":
        """What `description` describes; nothing is known of a model from before it was kept.

        Raises ValueError, TypeError, KeyError: it describes nothing of the kind.
        """
        if description is None:
            return cls()
        readings, null, words = (description[key] for key in ("readings", "null", "null_words"))
        checks.refuse(
            checks.one_of("reading", reading, (*MEANINGS, *TEXT)) for reading in dict(readings).values()
        )
        if not all(isinstance(text, str) for text in (*readings, *null)) or not isinstance(words, bool):
            raise TypeError("what stands for a gap is no text")
        return cls(dict(readings), Gaps(tuple(null), words))

    def known(self, kinds: Mapping[str, str], form: CsvForm | None) -> dict[str, str]:
        """What `open_source` is told of columns of these kinds, by name; a form that is given goes before."""
        form = form or CsvForm()
        overruled = {"number": form.decimal is not None, "date": form.date_format is not None}
        return {
            name: kind if overruled.get(kind) else self._reading(name, kind) for name, kind in kinds.items()
        }

    def _reading(self, name: str, kind: str) -> str:
        reading = self.readings.get(name, kind)
        return "text" if reading in TEXT else reading

    def form(self, given: CsvForm | None) -> CsvForm:
        """How a file is written whose gaps are those of the model unless others are given."""
        given = given or CsvForm()
        return dataclasses.replace(
            given,
            null=given.null or self.gaps.null,
            null_words=given.null_words and self.gaps.words,
        )
