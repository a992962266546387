"""Packages and their folders; everything else about the package is in pyproject.toml.

The folder `model/` is installed as `sctlab_model`, because a top-level name `model` would be in everybody's way, and
`weights/` within it, so that an installed wheel converts.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        "sctlab_model",
        *(f"sctlab_model.{name}" for name in find_packages("model")),
        "sctlab_model.weights",
        *find_packages(include=["sctlab", "sctlab.*"]),
    ],
    package_dir={"sctlab_model": "model", "sctlab_model.weights": "weights"},
)
