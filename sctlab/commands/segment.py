"""`sctlab segment`: the anatomy of an image, without anything to download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from sctlab.anatomy.comparing import OrganChange, compare_anatomy
from sctlab.workflow.locking import one_at_a_time
from sctlab_model.case_output import check_writable
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.io.paths import refuse_replacing
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume, written_suffix


def segment(
    image: Annotated[Path, typer.Argument(help="CT, CBCT, MR or sCT: an image file, or a DICOM folder of a CT.")],
    out: Annotated[Path, typer.Argument(help="Label file to write, e.g. labels.nii.gz; a picture lies beside it.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="A network of `sctlab anatomy train`; the shipped one when left out, where there is one."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Another image of the patient in the same place (the sCT of this MR, a registered CT): which organs are "
            "missing in it, or moved?"
        ),
    ] = None,
    picture: Annotated[bool, typer.Option(help="Save a picture of three planes beside the labels.")] = True,
) -> int:
    """Label organs, bones and tissues of an image, and say which region of the body its slices show.

    Ids are TotalSegmentator's where it has the structure (the first id of a group: 27 for the whole spine); soft tissue that is
    left over and gas have ids from 201. A demonstration network: not for clinical use.
    """
    from sctlab.dicom import read_dicom_series
    from sctlab_model.anatomy.classes import FILE_IDS, NAMES
    from sctlab_model.anatomy.settings import network_record
    from sctlab_model.label_maps import count_labels

    written_suffix(out)
    refuse_replacing(out, image, against, weights)
    check_writable(out.parent)
    if weights is not None:
        network_record(weights)
    volume, other = (
        None if p is None else read_dicom_series(p) if p.is_dir() else read_volume(p) for p in (image, against)
    )
    assert volume is not None
    for path, given in ((image, volume), (against, other)):
        labels = None if given is None else count_labels(given.array)
        if labels is not None:
            raise InputError(path, found=f"{labels} labels, no image", expected="a CT, CBCT, MR or sCT")
    # From here on PyTorch is imported: what can be refused without it was.
    from sctlab.anatomy.seeing import save_picture
    from sctlab_model.anatomy.network import read_network
    from sctlab_model.anatomy.segmenter import see_anatomy

    network = None if weights is None else read_network(weights)
    seen = see_anatomy(volume, network)
    with one_at_a_time(out.absolute()):  # labels and picture of one image
        write_volume(seen.labels, out)
        drawn = save_picture(volume, seen, out) if picture else None
    table = Table("id", "structure", "ml", box=None, pad_edge=False)
    for k in np.flatnonzero(seen.volumes_ml[1:] >= 0.5) + 1:
        table.add_row(str(FILE_IDS[k]), NAMES[k].replace("_", " "), f"{seen.volumes_ml[k]:.0f}")
    console = Console()
    console.print(table)
    shares = ", ".join(f"{region} {share:.0%}" for region, share in zip(Region, seen.regions.mean(0), strict=True))
    seen_as = "HU" if seen.in_hu else "MR magnitudes (nothing is below -300; a CT must be in HU)"
    console.print(f"region {seen.region} (slices: {shares}); intensities taken as {seen_as}", highlight=False)
    if other is not None:
        console.print(_changes(compare_anatomy(seen.labels, see_anatomy(other, network).labels)))
    if drawn is not None:
        console.print(str(drawn), soft_wrap=True, highlight=False)
    return 0


def _changes(changes: list[OrganChange]) -> Table:
    """What became of every structure in the other image."""
    table = Table("structure", "ml", "ml there", "Dice", "moved, mm", "", box=None, pad_edge=False)
    for change in changes:
        table.add_row(
            change.name.replace("_", " "),
            f"{change.first_ml:.0f}",
            f"{change.second_ml:.0f}",
            f"{change.dice:.2f}",
            "" if change.moved_mm is None else f"{change.moved_mm:.0f}",
            change.remark,
        )
    return table
