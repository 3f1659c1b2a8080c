"""Types of what users call: mypy reads this file, nothing runs it."""

from typing import assert_type

import numpy as np

import mlp_xp
from mlp_xp import Epoch, Loader, MLPClassifier, MLPRegressor, Network, TableModel


def network_and_loader(network: Network, loader: Loader) -> None:
    assert_type(len(loader), int)
    for epoch in mlp_xp.train(network, loader, max_epochs=3, frozen=[0]):
        assert_type(epoch, Epoch)
        assert_type(epoch.train_loss, float)
    value, gradient = network.gradient(np.ones((2, 4)), np.ones((2, 1)))
    assert_type(value, float)
    assert_type(gradient.n_weights, int)
    assert_type(mlp_xp.find_learning_rate(network, loader).suggestion, float)


def estimators() -> None:
    assert_type(MLPClassifier((20,), max_iter=3).fit([[0.0], [1.0]], [0, 1]), MLPClassifier)
    assert_type(MLPRegressor(loss="huber").fit([[0.0], [1.0]], [0, 1]), MLPRegressor)


def models(path: str) -> None:
    assert_type(mlp_xp.fit_table(path, "price", epochs=3), TableModel)
    model = mlp_xp.load(path)
    assert_type(model, Network | TableModel | MLPClassifier | MLPRegressor)
    model.predict(np.ones((2, 4)))
