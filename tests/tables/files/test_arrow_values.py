import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp.tables.files.arrow_values import is_gap, numbers_of, strings_from

pytestmark = pytest.mark.needs("pyarrow")


@settings(deadline=None)
@given(
    st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)),
    st.sampled_from(["int32", "int64", "float64"]),
    st.data(),
)
def test_numbers_and_gaps_of_any_part_of_an_array_are_as_pyarrow_lists_them(values, kind, data):
    import pyarrow as pa

    start = data.draw(st.integers(0, len(values)))
    part = pa.array(values, kind).slice(start, data.draw(st.integers(0, len(values))))
    numbers = numbers_of(part, kind, -7)
    assert numbers.dtype == kind
    assert numbers.tolist() == [-7 if value is None else value for value in part.to_pylist()]
    assert is_gap(part).tolist() == [value is None for value in part.to_pylist()]


def test_a_column_of_nothing_has_gaps_alone():
    import pyarrow as pa

    for values in (pa.nulls(3), pa.nulls(3, pa.float64()), pa.nulls(5).slice(1, 3)):
        assert is_gap(values).tolist() == [True] * 3
    assert is_gap(pa.nulls(0)).tolist() == []


@settings(deadline=None)
@given(st.lists(st.text()))
def test_texts_are_as_they_were_given(texts):
    import pyarrow as pa

    assert strings_from(texts).to_pylist() == texts
    assert strings_from(texts, pa.large_string()).type == pa.large_string()


def test_training_on_a_csv_file_does_not_import_pandas(tmp_path):
    lines = [
        f"{n if n % 7 else ''},{'ab'[n % 2]},2021-03-{n % 28 + 1:02d},{n % 3 > 0},{n}" for n in range(60)
    ]
    path = tmp_path / "t.csv"
    path.write_text("number,text,date,truth,y\n" + "\n".join(lines).lower() + "\n")
    program = (
        "import sys, mlp_xp; mlp_xp.fit_table(sys.argv[1], 'y', epochs=1); print('pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
