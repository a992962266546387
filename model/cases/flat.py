"""Flat folders: `<name>.<ext>` and, beside it, `<name>_mask.<ext>` and `<name>.json` with the region."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sctlab_model.cases.files import (
    OTHER_IMAGES,
    describe_links,
    images_by_stem,
    is_dicom,
    list_images,
    one_image,
    read_json,
    refuse_dicom,
    shorten,
)
from sctlab_model.cases.image import single_case
from sctlab_model.cases.layouts import CaseList, Layout, LeftOut, Selection, register
from sctlab_model.cases.types import Case, Region, Task
from sctlab_model.errors import InputError, ProductError
from sctlab_model.io.content import content_of
from sctlab_model.io.paths import SUFFIXES, split_suffix


@register
class FlatLayout(Layout):
    """Any folder that no other layout recognises."""

    name, order = "flat", 90

    def recognises(self, root: Path) -> bool:
        """Any folder will do."""
        return root.is_dir()

    def find(self, root: Path, selection: Selection) -> CaseList:
        """Every image of the folder that isn't a mask."""
        if not list_images(root):
            refuse_dicom(root)
            _refuse_other_layouts(root)
        if selection.task is None:
            raise InputError(root, found="a folder of images, and no --task", expected="--task mri or --task cbct")
        cases, labels = _without_labels(find_flat(root, selection.task, selection.region), root)
        files = [path for case in cases for path in case.input_files]
        left_out = sorted([*_left_out(root, cases), *labels], key=lambda item: item.where)
        return CaseList(tuple(cases), tuple(left_out), tuple(describe_links(files, root)))


def _without_labels(cases: list[Case], root: Path) -> tuple[list[Case], list[LeftOut]]:
    """The cases without label maps and masks, which lie beside images; and those, each with the reason.

    Only files whose name says so are looked into: it takes reading them. One that can't be read stays a case, which
    will say why.

    Raises:
        InputError: Nothing but labels.
    """
    from sctlab_model.label_maps import named_like_labels  # here, because it loads NumPy

    images: list[Case] = []
    left_out: list[LeftOut] = []
    for case in cases:
        labels = _labels_in(case.source_file) if named_like_labels(case.id) else None
        if labels is None:
            images.append(case)
            continue
        what = f"{labels} labels, no image"
        if labels == 2:
            suffix = split_suffix(case.source_file)[1]
            what = f"a mask, no image; the body mask of <name>{suffix} is called <name>_mask{suffix}"
        left_out.append(LeftOut(case.source_file.name, what))
    if not images:
        raise InputError(
            root,
            found=f"labels or masks only ({shorten(item.where for item in left_out)})",
            expected="images of patients",
        )
    return images, left_out


def _labels_in(path: Path) -> int | None:
    """How many labels a file holds, background included; None for an image, and for what can't be read."""
    from sctlab_model.io.reading import read_volume
    from sctlab_model.label_maps import count_labels

    try:
        return count_labels(read_volume(path).array)
    except ProductError:
        return None


def _refuse_other_layouts(root: Path) -> None:
    """A folder without images of its own may hold a cohort one level down, or spell its folders otherwise.

    Raises:
        InputError: It does.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = {task.folder.lower(): task.folder for task in Task}
    for path in folders:
        spelt = names.get(path.name.lower())
        if spelt is not None:
            raise InputError(root, found=f"a folder {path.name}", expected=spelt, advice="rename it")
        below = [p.name for p in sorted(path.iterdir()) if p.is_dir() and p.name.lower() in (*names, "images")]
        if below:
            raise InputError(
                root,
                found=f"a folder {path.name} with {below[0]} in it",
                expected="a case, a cohort or images",
                advice=f"give {path}",
            )


def find_flat(root: str | Path, task: Task, region: Region | None = None) -> list[Case]:
    """Images of one folder: `<name>.<ext>`, with `<name>_mask.<ext>` beside it and the region in `<name>.json`.

    Both are optional: a missing mask is computed, and a region is needed only by bundles with region groups.

    Raises:
        InputError: No image.
    """
    root = Path(root)
    by_stem = images_by_stem(root)
    masks = {stem.lower(): paths for stem, paths in by_stem.items() if _is_mask(stem)}
    cases = []
    for source in list_images(root):
        stem = split_suffix(source)[0]
        if _is_mask(stem):
            continue
        case = single_case(source, task, region=region)
        try:
            one_image(root, stem, by_stem[stem])  # refuses a.mha beside a.nrrd: their results would have one name
            name = f"{stem}_mask"
            mask = one_image(root, name, by_stem.get(name) or masks.get(name.lower(), []))
            own_region = _own_region(root, stem) or region
            cases.append(replace(case, mask=mask, region=own_region, has_masks=bool(masks)))
        except InputError as error:
            cases.append(replace(case, problem=error))
    if not cases:
        found = ", ".join(p.name for p in list_images(root)) or "no image"
        below = [p.name for p in sorted(root.iterdir()) if p.is_dir() and list_images(p)] if root.is_dir() else []
        raise InputError(
            root,
            found=found + (f", but images in its folders {', '.join(below)}" if below else ""),
            expected=f"<name>.<ext> and <name>_mask.<ext>, with <ext> one of {' '.join(SUFFIXES)}",
            advice=f"give one of these folders, such as {root / below[0]}" if below else "",
        )
    return cases


def _is_mask(stem: str) -> bool:
    return stem.lower().endswith("_mask")


def _own_region(root: Path, stem: str) -> Region | None:
    path = root / f"{stem}.json"
    if not path.is_file():
        return None
    value = read_json(path)
    return Region.parse(value if isinstance(value, str) else str(value), path)


def _left_out(root: Path, cases: list[Case]) -> list[LeftOut]:
    """What lies in the folder as input and isn't taken."""
    stems = {case.id for case in cases}
    small = {stem.lower() for stem in stems}
    left = []
    for path in sorted(root.iterdir()):
        stem, suffix = split_suffix(path)
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not path.exists():
            left.append(LeftOut(path.name, "a link to nothing"))
        elif path.is_dir():
            if list_images(path):
                left.append(LeftOut(path.name, "a folder of images below the input folder"))
        elif suffix in SUFFIXES:
            if _is_mask(stem) and stem.lower().removesuffix("_mask") not in small:
                left.append(LeftOut(path.name, "a mask without its image"))
        elif (suffix.lower() in OTHER_IMAGES and not _belongs(path, stems)) or is_dicom(path):
            left.append(
                LeftOut(path.name, "a DICOM file" if is_dicom(path) else f"images of type {suffix} aren't read")
            )
        elif (content := content_of(path)) is not None and content.suffix in SUFFIXES:  # an image under another name
            left.append(LeftOut(path.name, f"{content.what} whose name doesn't end in {content.suffix}"))
    return left


def _belongs(path: Path, stems: set[str]) -> bool:
    """Whether a file is the voxels of an image that was taken (`a.mhd` may name `a.img`)."""
    return path.suffix.lower() == ".img" and path.stem in stems
