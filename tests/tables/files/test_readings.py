"""A reading of whole columns gives each text the meaning that it has by itself."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlp_xp.tables.files.one_value import GAPS, MEANINGS
from mlp_xp.tables.files.text_values import READINGS

pytestmark = pytest.mark.needs("pyarrow")

TEXTS = st.one_of(
    st.from_regex(r"[+-]?\d{0,4}[.,' ]?\d{0,3}[.,]?\d{0,2}(e[+-]?\d)?", fullmatch=True),
    st.from_regex(
        r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}(:\d\d){0,2}(\.\d+)?)?(Z|[+-]\d\d)?", fullmatch=True
    ),
    st.from_regex(r"-?\d{1,2}(:\d{1,2}){0,2}(\.\d{1,9})?", fullmatch=True),
    st.from_regex(r"-?\d days?( [+-]?\d\d:\d\d:\d\d)?|-?P\dDT\dH", fullmatch=True),
    st.sampled_from(["true", "False", "inf", "nan ", "１２", "0x10", "1_000"]),
)


def meant(reading, text):
    try:
        return float(MEANINGS[reading](text))
    except (ValueError, KeyError, OverflowError):
        return None


def read(reading, text):
    import pyarrow as pa

    from mlp_xp.tables.files.text_values import read

    try:
        value = read(reading, pa.array([text]))[0]
    except pa.ArrowInvalid:
        return None
    if value.as_py() is None:
        return None
    if pa.types.is_timestamp(value.type):
        return value.cast(pa.int64()).as_py() / 86_400e6
    return float(value.as_py())


@pytest.mark.parametrize("reading", READINGS)
@given(text=TEXTS)
@example(text="10")
@example(text="0000-01-01")
@example(text="2020-1-5T9:30")
@settings(max_examples=150)
def test_what_reads_a_column_means_what_its_texts_mean(reading, text):
    found = read(reading, text)
    if found is not None and not math.isnan(found) and text.strip() not in GAPS:
        assert found == meant(reading, text)
