"""What a model file of a table predicts, computed from the file and from Python's values, one row at a time.

Nothing of mlp_xp is used, no array is computed with: the definitions in plain Python.
"""

import datetime as dt
import json
import math
import re

import safetensors.numpy

PERIODS = {"day": 1.0, "week": 7.0, "year": 365.2425}

ACTIVATIONS = {
    "identity": lambda z: z,
    "logistic": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": math.tanh,
    "relu": lambda z: max(z, 0.0),
    "gelu": lambda z: z / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
}


def _is_same_number(text, other):
    """Whether two texts are one number, such as 1 and 1.0; 01 is none."""
    plain = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
    return bool(plain.fullmatch(text) and plain.fullmatch(other)) and float(text) == float(other)


class TableModel:
    """A model file of a table.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path):
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        document = json.loads(header["__metadata__"]["mlp_xp"])
        tensors = {name: each.tolist() for name, each in safetensors.numpy.load(content).items()}
        self.table, self.network = document["table"], document["network"]
        layers = range(len(self.network["activations"]))
        self.weights = [tensors[f"weights.{layer}"] for layer in layers]
        self.biases = [tensors.get(f"biases.{layer}") for layer in layers]
        self.words = (self.table.get("written") or {}).get("null_words", True)

    def features(self, row):
        """What the network is given of a row, a dict of Python's values."""
        found = []
        for column in self.table["inputs"]:
            found += getattr(self, f"_{column['treatment']}")(column, self._known(row[column["name"]]))
        return found

    def _known(self, value):
        if isinstance(value, float) and math.isnan(value):
            return None
        return None if self.words and value in ("NA", "None", "") else value

    def _constant(self, _column, _value):
        return []

    def _category(self, column, value):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        alike = [level for level in column["levels"] if _is_same_number(text, level)]
        if text not in column["levels"] and len(alike) == 1:
            text = alike[0]
        is_known = value is not None and text in column["levels"]
        found = [float(is_known and text == level) for level in column["levels"]]
        found += [float(value is not None and not is_known)] if column["other"] else []
        return found + ([float(value is None)] if column["gaps"] else [])

    def _number(self, column, value):
        if isinstance(value, dt.time):
            value = dt.datetime.combine(dt.date(1970, 1, 1), value) - dt.datetime(1970, 1, 1)
        if isinstance(value, dt.timedelta):
            value = value.total_seconds()
        z = ((column["median"] if value is None else float(value)) - column["centre"]) / column["scale"]
        z = z / math.sqrt(1 + (z / 3) ** 2) if column["clipped"] else z
        return [z, float(value is None)] if column["gaps"] else [z]

    def _date(self, column, value):
        days = None
        if value is not None:
            moment = value if isinstance(value, dt.datetime) else dt.datetime.combine(value, dt.time())
            days = (moment - dt.datetime(1970, 1, 1)) / dt.timedelta(days=1)
        found = self._number(column, days)
        for cycle in column["cycles"]:
            angle = 2 * math.pi * (column["median"] if days is None else days) / PERIODS[cycle]
            found += [math.sin(angle), math.cos(angle)]
        return found

    def outputs(self, row):
        """What the network says of a row, before it is put into words or units."""
        a = self.features(row)
        for w, b, name in zip(self.weights, self.biases, self.network["activations"], strict=True):
            z = [
                sum(x * weight[at] for x, weight in zip(a, w, strict=True)) + (b[at] if b else 0.0)
                for at in range(len(w[0]))
            ]
            a = [ACTIVATIONS[name](each) for each in z]
        return a

    def numbers(self, row):
        """The predictions for each target, where they are numbers."""
        targets = self.table["targets"]
        limits = targets.get("limits") or [(-math.inf, math.inf)] * len(targets["names"])
        return [
            min(max(mean + scale * each, least), most)
            for each, mean, scale, (least, most) in zip(
                self.outputs(row), targets["means"], targets["scales"], limits, strict=True
            )
        ]

    def probabilities(self, row):
        """That of each class."""
        z = self.outputs(row)
        if len(z) == 1:
            p = 1 / (1 + math.exp(-z[0]))
            return [1 - p, p]
        powers = [math.exp(each - max(z)) for each in z]
        return [each / sum(powers) for each in powers]
