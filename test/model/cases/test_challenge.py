"""Cases from Grand Challenge folders, and regions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases_files import touch

from sctlab_model.cases import (
    Region,
    Task,
    challenge_results,
    is_challenge,
    read_challenge,
)
from sctlab_model.errors import InputError


def write_inputs(root: Path, entries: object) -> None:
    (root / "inputs.json").write_text(json.dumps(entries))


def socket(spelling: str, slug: str, path: str, image: bool = True) -> dict:
    return {
        spelling: {"slug": slug, "relative_path": path, "is_image_kind": image, "is_json_kind": not image},
        "file": None,
        "image": {"name": "a.mha"} if image else None,
        "value": None,
    }


def test_exec_folder(challenge: Path) -> None:
    assert is_challenge(challenge)
    case = read_challenge(challenge)
    assert (case.id, case.task, case.region) == ("uuid", Task.MRI, Region.HN)
    assert case.source == challenge / "images/mri/uuid.mha"
    assert case.mask == challenge / "images/body/other.mha"
    assert case.output_name == "images/synthetic-ct/uuid.mha"


@pytest.mark.parametrize("spelling", ["socket", "interface"])
def test_inputs_json_says_where_files_are(tmp_path: Path, spelling: str) -> None:
    touch(tmp_path, "images/cone-beam-cbct/a.mha", "images/the-body/b.mha")
    (tmp_path / "body-region.json").write_text('"Thorax"')
    write_inputs(
        tmp_path,
        [
            socket(spelling, "some-cbct-image", "images/cone-beam-cbct"),
            socket(spelling, "body", "images/the-body"),
            socket(spelling, "synthetic-ct-image", "images/synthetic-ct"),
            socket(spelling, "region", "body-region.json", image=False),
        ],
    )
    case = read_challenge(tmp_path)
    assert (case.task, case.region) == (Task.CBCT, Region.TH)
    assert case.source == tmp_path / "images/cone-beam-cbct/a.mha"
    assert case.mask == tmp_path / "images/the-body/b.mha"


def test_inputs_json_with_paths_only(tmp_path: Path) -> None:
    """Slugs aren't published for every input: the relative path is enough."""
    touch(tmp_path, "images/cbct/a.mha", "images/body/b.mha")
    (tmp_path / "region.json").write_text('"Abdomen"')
    write_inputs(tmp_path, [{"interface": {"relative_path": p}} for p in ("images/cbct", "images/body", "region.json")])
    assert read_challenge(tmp_path).task is Task.CBCT


@pytest.mark.parametrize("path", ["../secret", "/etc", "images/../../secret", "images/mri/../../.."])
def test_image_paths_outside_the_folder_are_refused(challenge: Path, path: str) -> None:
    touch(challenge.parent / "secret", "a.mha")
    write_inputs(challenge, [socket("socket", "mri-image", path)])
    with pytest.raises(InputError, match="inside the input folder"):
        read_challenge(challenge)


@pytest.mark.parametrize("path", ["../region.json", "/etc/hostname"])
def test_region_paths_outside_the_folder_are_refused(challenge: Path, path: str) -> None:
    (challenge.parent / "region.json").write_text('"Abdomen"')
    write_inputs(challenge, [socket("socket", "region", path, image=False)])
    with pytest.raises(InputError, match="inside the input folder"):
        read_challenge(challenge)


@pytest.mark.parametrize(
    "entries", [{}, "x", [1], [{}], [{"socket": 3}], [{"socket": {"slug": "body"}}], [{"socket": {"relative_path": 7}}]]
)
def test_malformed_inputs_json_is_refused(challenge: Path, entries: object) -> None:
    write_inputs(challenge, entries)
    with pytest.raises(InputError, match=r"inputs\.json"):
        read_challenge(challenge)


@pytest.mark.parametrize("text", ["", "[", "\xff", "[" * 100_000])
def test_broken_json_is_refused(challenge: Path, text: str) -> None:
    (challenge / "inputs.json").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match="JSON"):
        read_challenge(challenge)


def test_huge_json_is_refused(challenge: Path) -> None:
    (challenge / "region.json").write_text('"' + "x" * 10_000_001)
    with pytest.raises(InputError, match="10 MB"):
        read_challenge(challenge)


def test_no_mask_is_no_error(challenge: Path) -> None:
    (challenge / "images/body/other.mha").unlink()
    assert read_challenge(challenge).mask is None


def test_no_image_lists_what_is_there(challenge: Path) -> None:
    (challenge / "images/mri/uuid.mha").rename(challenge / "images/mri/uuid.tiff")
    with pytest.raises(InputError, match=r"0 source images \(.*uuid\.tiff.*images/mri or images/cbct"):
        read_challenge(challenge)


@pytest.mark.parametrize("extra", ["images/mri/second.nii.gz", "images/cbct/second.mha"])
def test_several_images_are_listed(challenge: Path, extra: str) -> None:
    touch(challenge, extra)
    with pytest.raises(InputError, match=r"2 source images \(.*second"):
        read_challenge(challenge)


def test_results_name_what_was_read(challenge: Path) -> None:
    case = read_challenge(challenge)
    (entry,) = challenge_results(case, Path("/output/images/synthetic-ct/uuid.mha"), challenge / "region.json")
    assert entry["outputs"] == [{"type": "metaio_image", "filename": "/output/images/synthetic-ct/uuid.mha"}]
    assert [i["type"] for i in entry["inputs"]] == ["metaio_image", "metaio_image", "String"]
    assert entry["error_messages"] == []


# --- regions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "region"), [("Abdomen", Region.AB), ("head and neck", Region.HN), (" TH ", Region.TH), ("ab", Region.AB)]
)
def test_regions(text: str, region: Region) -> None:
    assert Region.parse(text, "here") is region


@pytest.mark.parametrize("text", ["", "Brain", "Head & Neck"])
def test_unknown_regions_list_the_known_ones(text: str) -> None:
    with pytest.raises(InputError, match=r"AB \(Abdomen\), HN \(Head and Neck\), TH \(Thorax\)"):
        Region.parse(text, "here")


def test_the_input_folder_may_be_a_link(challenge: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("runner") / "input"
    link.symlink_to(challenge)
    assert read_challenge(link).source == link / "images/mri/uuid.mha"
    (link / "images/mri/second.mha").write_bytes(b"")
    with pytest.raises(InputError, match="2 source images"):
        read_challenge(link)


@pytest.mark.parametrize("name", ["images/mri/uuid.mha", "images/body/other.mha", "region.json", "images/mri"])
def test_links_out_of_a_stranger_s_input_are_refused(challenge: Path, name: str, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "target"
    (challenge / name).rename(outside)
    (challenge / name).symlink_to(outside)
    with pytest.raises(InputError, match="link that leads out"):
        read_challenge(challenge)
