"""The anatomy network in the laboratory: behind the evaluation's segmenter protocol, and as a picture."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np

from sctlab.pictures import CT_WINDOW, Layer, centre_index, save_planes
from sctlab_model.anatomy.classes import FILE_IDS, NAMES, merge_total, to_classes
from sctlab_model.anatomy.segmenter import Anatomy, NoContrastError, see_anatomy
from sctlab_model.anatomy.shipped import NETWORK, load_network
from sctlab_model.io.paths import split_suffix
from sctlab_model.volume import Volume


class AnatomySegmenter:
    """The network behind the evaluation's segmenter protocol.

    Args:
        name: Of a shipped network.
    """

    # The id of a group is its first structure's: 27 is the whole spine here, and L5 elsewhere.
    names = MappingProxyType({int(k): name for k, name in zip(FILE_IDS[1:], NAMES[1:], strict=True)})

    def __init__(self, name: str = NETWORK) -> None:
        self.name = name
        self._network = load_network(name)

    def segment(self, ct: Volume) -> Volume:
        """Ids of merged classes on the grid of `ct`; what `total` does not know is left out.

        A result of one value shows nothing: it gets no labels, so that its Dice is 0 and not missing.

        Raises:
            TooThinError: The image shows too little along an axis.
        """
        try:
            labels = see_anatomy(ct, self._network).labels
        except NoContrastError:
            return ct.with_array(np.zeros(ct.array.shape, np.uint8))
        return labels.with_array(np.where(labels.array > 200, 0, labels.array).astype(np.uint8))

    def comparable(self, labels: Volume) -> Volume:
        """A reference of `total` ids in the groups that `segment` tells apart."""
        return labels.with_array(merge_total(labels.array))


def save_picture(image: Volume, seen: Anatomy, path: Path) -> Path:
    """Three planes of the image, and of its labels with their names; `<stem>.png` beside `path`."""
    body = seen.labels.with_array(np.isin(seen.labels.array, FILE_IDS[1:]).astype(np.uint8))
    shown = seen.labels.with_array(to_classes(seen.labels.array))
    names = tuple(name.replace("_", " ") for name in NAMES)
    layers = [
        Layer("image", image, CT_WINDOW if seen.in_hu else None, unit="HU" if seen.in_hu else ""),
        Layer("labels", shown, names=names),
    ]
    return save_planes(layers, path.with_name(split_suffix(path)[0] + ".png"), index_xyz=centre_index(body, image))
