"""MLPClassifier and MLPRegressor: scikit-learn's contract, translated to the core.

array_home     in whose library and on which device X lives, and results go back to
data           the rows of a fit, in memory or read as they are needed; sparse matrices as sources
drawing        weights and orders drawn as scikit-learn draws them, or given
parameters     constructor parameters, checked and translated to the core's objects
targets        class labels to class numbers and back
training       scikit-learn's way of stopping, who is told of every epoch, and members that go together
saved          a fitted estimator as JSON beside its network
fitting        fit and partial_fit, for both classes
perceptron     weights as attributes, predictions in bounded memory, pickles
classifier, regressor
"""

try:
    from mlp_xp.estimators.classifier import MLPClassifier
    from mlp_xp.estimators.regressor import MLPRegressor
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("sklearn", "scipy"):
        raise
    raise ModuleNotFoundError(
        'MLPClassifier and MLPRegressor need scikit-learn: pip install "mlp-xp[sklearn]"',
        name=error.name,
    ) from error

__all__ = ["MLPClassifier", "MLPRegressor"]
