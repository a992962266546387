"""elastix in a process of its own: `python -m sctlab.registration.elastix.worker FOLDER` (see `elastix._run`)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.processors import available_cpus
from sctlab_model.volume import Volume

if TYPE_CHECKING:
    import itk


def to_itk(volume: Volume) -> itk.Image:
    """A volume for the itk package (float32; boolean masks as uint8)."""
    import itk

    dtype = np.uint8 if volume.array.dtype == bool else np.float32
    image = itk.image_from_array(np.ascontiguousarray(volume.array, dtype=dtype))
    image.SetSpacing(volume.geometry.spacing_xyz)
    image.SetOrigin(volume.geometry.origin_xyz)
    image.SetDirection(itk.matrix_from_array(volume.geometry.axes))
    return image


def run(folder: Path) -> None:
    """Register `moving.mha` to `fixed.mha` inside `mask.mha` with the parameter maps of `stages.json`.

    Threads are limited for the whole process. The method's own `SetNumberOfThreads` with more than one thread ends in
    a segmentation fault as soon as a stage has several metrics: each metric is told another number of threads than it
    has histograms for (github.com/InsightSoftwareConsortium/ITKElastix/issues/160).
    """
    import itk

    threads = int(os.environ.get("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", available_cpus()))
    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(threads)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    parameters = itk.ParameterObject.New()
    for stage in json.loads((folder / "stages.json").read_text(encoding="utf-8")):
        parameters.AddParameterMap({key: tuple(words) for key, words in stage.items()})
    image_type = itk.Image[itk.F, 3]
    method = itk.ElastixRegistrationMethod[image_type, image_type].New()
    method.SetFixedImage(to_itk(read_volume(folder / "fixed.mha")))
    method.SetMovingImage(to_itk(read_volume(folder / "moving.mha")))
    method.SetFixedMask(to_itk(read_mask(folder / "mask.mha")))
    method.SetParameterObject(parameters)
    method.SetOutputDirectory(str(folder))
    method.SetLogFileName("elastix.log")
    method.SetLogToFile(True)
    method.SetLogToConsole(False)
    method.Update()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
