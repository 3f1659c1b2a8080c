"""The estimators fit what streams on several processes to the same model as on one."""

import json
import warnings

import numpy as np
import pytest
from estimators import data_parallel_fits
from mpi import mpiexec

pytestmark = pytest.mark.needs("mpi4py", "sklearn")


def test_a_streaming_fit_over_ranks_is_that_of_one_process(tmp_path):
    data_parallel_fits.write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of epochs that are too few
        alone = data_parallel_fits.results(tmp_path)
    done = mpiexec(3, data_parallel_fits.__file__, tmp_path)
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert found[1] == found[0], "ranks differ from each other"
    assert found[2] == found[0], "ranks differ from each other"
    for name, expected in alone.items():
        np.testing.assert_allclose(found[0][name], expected, rtol=1e-9, atol=1e-11, err_msg=name)
