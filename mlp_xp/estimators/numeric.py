"""What cannot be computed with as it is: dates, texts, and what float32 has no room for."""

from typing import Any

import numpy as np
import scipy.sparse

from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.tables.own_tables import columns_of


def refuse_dates(name: str, given: ArrayLike) -> None:
    """Raise TypeError where an array or a frame holds dates or spans, which NumPy counts in any unit."""
    dtypes: Any = getattr(given, "dtypes", None)
    if not hasattr(dtypes, "items"):
        dtypes = {"": getattr(given, "dtype", None)}
    for column, dtype in dtypes.items():
        if getattr(dtype, "kind", "") in ("M", "m"):
            where = f"{name}, column {column!r}" if column != "" else name
            held, span = ("dates", "datetime64") if dtype.kind == "M" else ("time spans", "timedelta64")
            raise TypeError(
                f"{where} holds {held} (dtype {dtype}); numbers are needed. Say in which unit they count, "
                f"e.g. .astype('{span}[s]').astype('int64') / 86400 for days, and standardise them."
            )


def refuse_texts(given: ArrayLike, *, numeric: bool) -> None:
    """Raise ValueError where columns of X hold texts that are no numbers; it names them."""
    names = list(getattr(given, "columns", ()))  # of which scikit-learn lets two be the same
    columns = columns_of(given) if names and len(set(names)) == len(names) else None
    if columns is None:
        array = given
        if isinstance(given, list) and np.asarray(given[:1]).dtype.kind in "OUS":
            array = np.asarray(given)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "OUS" or array.ndim != 2:
            return
        columns = {str(number): array[:, number] for number in range(array.shape[1])}
    texts = [name for name, values in columns.items() if _has_text(values)]
    if texts:
        more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
        instead = "TableRegressor" if numeric else "TableClassifier"
        raise ValueError(
            f"X holds texts in column {', '.join(map(repr, texts[:5]))}{more}, and numbers are needed: "
            f"encode them, or use {instead}, which takes texts as they are."
        )


def _has_text(values: ArrayLike) -> bool:
    if getattr(getattr(values, "dtype", None), "kind", "O") in "biufc":
        return False
    for value in np.asarray(values):
        if isinstance(value, str):
            try:
                float(value)
            except ValueError:
                return True
    return False


def refuse_overflow(x: ArrayLike, dtype: str) -> None:
    """Raise ValueError where a value is beyond what the dtype of a network holds."""
    values = x.data if scipy.sparse.issparse(x) else x
    if dtype != "float32" or not isinstance(values, np.ndarray) or values.dtype != np.float64:
        return
    largest = np.finfo(np.float32).max
    if values.size and max(values.max(), -values.min()) > largest:
        at = "" if scipy.sparse.issparse(x) else f"row {np.argwhere(np.abs(x) > largest)[0][0]} (from 0) of "
        raise ValueError(
            f"{at}X has a value beyond {largest:.3g}, and this estimator computes in float32. Mend the "
            "value, or fit with dtype='float64'."
        )


def refuse_non_finite(outputs: np.ndarray) -> None:
    """Raise ValueError where a prediction is none."""
    if not np.isfinite(outputs).all():
        row = int(np.argmin(np.isfinite(outputs).all(axis=1)))
        raise ValueError(
            f"the prediction of row {row} (from 0) is {outputs[row]}: its values are so large that computing "
            "with them overflows. Standardise X as in training, or mend the row."
        )
