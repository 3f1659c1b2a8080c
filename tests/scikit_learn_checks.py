"""scikit-learn's checks of estimators, as this pytest takes them; and what is the newest's alone."""

from importlib.util import find_spec

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks


def with_checks(*arguments, **named):
    """`parametrize_with_checks`, but a list: the generator of scikit-learn 1.7 is an error to pytest."""
    mark = parametrize_with_checks(*arguments, **named)
    names, checks = mark.args
    return pytest.mark.parametrize(names, list(checks), **mark.kwargs)


SINCE_1_9 = pytest.mark.skipif(
    find_spec("sklearn.callback") is None, reason="scikit-learn has it, or does it so, since 1.9"
)
