"""Where cases come from: what a case is (`types`), and a file for every layout of folders (`layouts` asks them)."""

from sctlab_model.cases.challenge import (
    IMAGE_FOLDERS,
    MASK_FOLDER,
    OUTPUT_FOLDER,
    challenge_results,
    is_challenge,
    read_challenge,
)
from sctlab_model.cases.files import find_image, list_images, read_json, result_name
from sctlab_model.cases.flat import find_flat
from sctlab_model.cases.image import single_case
from sctlab_model.cases.layouts import CaseList, Layout, LeftOut, Selection, find_cases, layout_of, layouts, register
from sctlab_model.cases.synthrad import find_cohort, is_cohort
from sctlab_model.cases.types import Case, CaseKey, ImageSource, Region, Task, files_of, name_of, read_image

__all__ = [
    "IMAGE_FOLDERS",
    "MASK_FOLDER",
    "OUTPUT_FOLDER",
    "Case",
    "CaseKey",
    "CaseList",
    "ImageSource",
    "Layout",
    "LeftOut",
    "Region",
    "Selection",
    "Task",
    "challenge_results",
    "files_of",
    "find_cases",
    "find_cohort",
    "find_flat",
    "find_image",
    "is_challenge",
    "is_cohort",
    "layout_of",
    "layouts",
    "list_images",
    "name_of",
    "read_challenge",
    "read_image",
    "read_json",
    "register",
    "result_name",
    "single_case",
]
