"""The command line's options for GPUs, as far as they go without one."""

import pytest
from command_line import runner

from mlp_xp.machine import array_api, cuda
from mlp_xp.machine.array_api import backend

QUICK = ("train", "--epochs", "1", "--hidden", "4", "--quiet")


@pytest.fixture
def mlp_xp(capsys):
    return runner(capsys)


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the room for CUDA, on a machine whose GPU is its CPU."""
    asked = []
    monkeypatch.setattr(cuda, "allow_tf32", lambda: asked.append("tf32"))
    monkeypatch.setattr(cuda, "limit_memory", lambda text, index: asked.append((text, index)))
    return asked


def test_tf32_is_allowed_only_where_it_is_asked_for(mlp_xp, asked):
    assert mlp_xp(*QUICK).status == 0
    assert asked == []
    assert mlp_xp(*QUICK, "--tf32").status == 0
    assert asked == ["tf32"]


def test_a_limit_of_memory_is_for_a_gpu(mlp_xp, asked):
    assert mlp_xp(*QUICK, "--device-memory-limit", "50%").status == 0
    assert asked == []


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_memory_is_limited_before_anything_is_made(device, mlp_xp, asked, monkeypatch):
    from mlp_xp import network

    def find(name="cpu", dtype=None):
        asked.append("network")
        return backend("cpu", dtype)

    monkeypatch.setattr(network, "find_backend", find)
    monkeypatch.setattr(array_api, "backend", lambda *arguments: None)
    done = mlp_xp(*QUICK, "--device", device, "--device-memory-limit", "4GiB")
    assert done.status == 0, done.err
    assert asked[:2] == [("4GiB", int(device.partition(":")[2] or 0)), "network"]


def test_what_is_no_limit_is_refused(mlp_xp):
    done = mlp_xp(*QUICK, "--device-memory-limit", "much")
    assert done.status == 2
    assert done.errors == [
        "device memory limit 'much' must be an amount or a part of the GPU's memory: 4GiB, 500MB, 50%."
    ]
