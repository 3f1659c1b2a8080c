"""The data sets that come along: the shipped one is what it says, the others are scikit-learn's."""

import sys

import numpy as np
import pytest

from mlp_xp.tables.datasets import DATASETS, load_dataset

SHAPES = {
    "diabetes": (442, 10, 1, None),
    "linnerud": (20, 3, 3, None),
    "iris": (150, 4, 1, 3),
    "wine": (178, 13, 1, 3),
    "breast_cancer": (569, 30, 1, 2),
    "digits": (1797, 64, 1, 10),
}


def test_all_are_known():
    assert set(SHAPES) == set(DATASETS)


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("name", DATASETS)
def test_shapes_and_names(name):
    n_rows, n_features, n_targets, n_classes = SHAPES[name]
    found = load_dataset(name)
    assert found.x.shape == (n_rows, n_features)
    assert found.y.shape == (n_rows, n_targets)
    assert np.isfinite(found.x).all()
    assert len(set(found.feature_names)) == n_features
    assert len(set(found.target_names)) == n_targets
    assert all(isinstance(each, str) for each in (*found.feature_names, *found.target_names))
    if n_classes is None:
        assert found.levels is None
    else:
        assert len(found.levels) == n_classes
        assert sorted(np.unique(found.y)) == list(range(n_classes))


@pytest.mark.needs("sklearn")
def test_diabetes_is_the_published_table():
    from sklearn.datasets import load_diabetes

    ours, theirs = load_dataset("diabetes"), load_diabetes(scaled=False)
    np.testing.assert_allclose(ours.x, theirs.data)
    np.testing.assert_array_equal(ours.y[:, 0], theirs.target)
    assert ours.feature_names == list(theirs.feature_names)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"unknown dataset 'diabets'; did you mean 'diabetes'\? Known: "):
        load_dataset("diabets")


def test_what_to_do_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"'wine' comes with scikit-learn: pip install \"mlp-xp"):
        load_dataset("wine")
    assert load_dataset("diabetes").x.shape == (442, 10)
