"""The network library without the compiler that it pulls in.

torchvision and timm import `torch._dynamo` for two functions that matter only where a network is compiled, and with it
sympy, triton and much of `torch.distributed`: half of the time that importing segmentation_models_pytorch takes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"


def import_smp() -> Any:
    """segmentation_models_pytorch, with `torch._dynamo` left for the moment when something of it is called."""
    if _COMPILER not in sys.modules:
        try:
            with _called_later():
                return import_module("segmentation_models_pytorch")
        except (AttributeError, ImportError):
            pass  # a version that wants more of the compiler than stands in for it
    return import_module("segmentation_models_pytorch")


@contextmanager
def _called_later() -> Iterator[None]:
    """Stand in for the compiler's modules while others are imported; what they take from it imports it when called."""
    package, utils = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
    stands_in: Any = package
    stands_in.__path__, stands_in.utils, stands_in.disable = [], utils, _disable
    stands_in = utils
    stands_in.is_compile_supported = _is_compile_supported
    names = {_COMPILER: package, f"{_COMPILER}.utils": utils}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _is_compile_supported(device_type: str) -> bool:
    """What torchvision asks before it compiles an operator."""
    return bool(import_module(f"{_COMPILER}.utils").is_compile_supported(device_type))


def _disable(function: Callable[..., Any] | None = None, *settings: Any, **named: Any) -> Any:
    """`torch.compiler.disable` of one function, with which timm decorates."""
    if function is None:
        return lambda given: _disable(given, *settings, **named)

    @functools.wraps(function)
    def later(*arguments: Any, **options: Any) -> Any:
        disabled = import_module(_COMPILER).disable(function, *settings, **named)
        return disabled(*arguments, **options)

    return later
