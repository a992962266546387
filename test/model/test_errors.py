"""Errors are one line for the person who must act, and survive the way back from a worker process."""

from __future__ import annotations

import pickle

import pytest

from sctlab_model.errors import ExitCode, ImplausibleError, InputError, ProductError, ResourceError, WeightsError


@pytest.mark.parametrize(
    ("kind", "code"), [(InputError, 2), (WeightsError, 3), (ProductError, 4), (ImplausibleError, 5), (ResourceError, 6)]
)
def test_errors(kind: type[ProductError], code: int) -> None:
    error = kind("a.mha", found="2 dimensions\nand a newline", expected="3 dimensions", advice="convert it")
    assert str(error) == "a.mha: 2 dimensions and a newline; expected 3 dimensions; convert it"
    assert error.exit_code == code
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.where, again.advice) == (str(error), "a.mha", "convert it")


def test_exit_codes() -> None:
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6]
    assert str(InputError("x", found="wrong")) == "x: wrong"
