"""Files that no injury of the fuzz corpus makes: legal oddities that must be read exactly, and traps that must be refused."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume

VOXELS = np.arange(60, dtype="<i2").reshape(3, 4, 5)
RAW = VOXELS.tobytes()


def nifti(extension: bytes = bytes(4), voxels: bytes = RAW, **fields: Any) -> bytes:
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_shape((5, 4, 3))
    header.set_data_dtype("<i2")
    header.set_qform(np.diag([1, 1, 2, 1.0]), 1)
    header.set_sform(np.diag([1, 1, 2, 1.0]), 1)
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + extension + voxels


def meta(extra: str = "", voxels: bytes = RAW, **changes: str) -> bytes:
    fields = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0", "ElementSpacing": "1 1 2",
        "DimSize": "5 4 3", "ElementType": "MET_SHORT",
    } | changes  # fmt: skip
    lines = "".join(f"{key} = {value}\n" for key, value in fields.items())
    return f"{lines}{extra}ElementDataFile = LOCAL\n".encode() + voxels


def nrrd(extra: str = "", voxels: bytes = RAW, encoding: str = "raw", **changes: str) -> bytes:
    fields = {
        "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "5 4 3",
        "space directions": "(1,0,0) (0,1,0) (0,0,2)", "endian": "little", "encoding": encoding, "space origin": "(0,0,0)",
    } | changes  # fmt: skip
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items())
    return f"NRRD0004\n{lines}{extra}\n".encode() + voxels


def gzipped(raw: bytes, flags: int) -> bytes:
    """A gzip member with the optional fields of its header: extra, name, comment, checksum."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(5) + b"\xff"
    head += struct.pack("<H", 9) + b"BC\5\0hello" if flags & 4 else b""
    head += b"../../etc/passwd\0" if flags & 8 else b""
    head += b"c" * 70_000 + b"\0" if flags & 16 else b""
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if flags & 2 else b""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    return head + deflater.compress(raw) + deflater.flush() + struct.pack("<II", zlib.crc32(raw), len(raw))


NIFTI = nifti()
EMPTY_BLOCKS = b"\x1f\x8b\x08" + bytes(6) + b"\xff" + b"\0\0\0\xff\xff" * 50_000 + gzip.compress(NIFTI)[10:]
READ = {
    "every field of a gzip header.nii.gz": gzipped(NIFTI, 0b11110),
    "a member for every byte.nii.gz": b"".join(gzip.compress(NIFTI[i : i + 1]) for i in range(len(NIFTI))),
    "some empty members.nii.gz": gzip.compress(b"") * 20 + gzip.compress(NIFTI) + gzip.compress(b""),
    "empty stored blocks.nii.gz": EMPTY_BLOCKS,
    "seven axes of which four have one sample.nii": nifti(dim=[7, 5, 4, 3, 1, 1, 1, 1]),
    "axes that are not used.nii": nifti(dim=[3, 5, 4, 3, 99, 0, -1, 0]),
    "nan where nothing is said.nii": nifti(cal_max=np.nan, cal_min=np.inf, toffset=np.nan, slice_duration=np.nan),
    "texts that are none.nii": nifti(descrip=b"\xff" * 80, aux_file=b"/etc/passwd"),
    "header size minus one.mha": meta(HeaderSize="-1"),
    "byte skip minus one.nrrd": nrrd("byte skip: -1\n"),
    "leading zeros.nrrd": nrrd(sizes="0005 04 3"),
    "many keys.nrrd": nrrd("".join(f"k{i}:=v\n" for i in range(2000))),
    "another measurement frame.nrrd": nrrd("measurement frame: (0,1,0) (1,0,0) (0,0,1)\n"),
}
REFUSED = {
    "wrong checksum of a gzip header.nii.gz": (gzipped(NIFTI, 2)[:10] + b"\0\0" + gzipped(NIFTI, 2)[12:], "header crc"),
    "reserved flag.nii.gz": (gzipped(NIFTI, 0x40), "damaged compressed data"),
    "a megabyte of empty members.nii.gz": (gzip.compress(b"") * 50_000 + gzip.compress(NIFTI), "1000 empty members"),
    "compressed twice.nii.gz": (gzip.compress(gzip.compress(NIFTI)), "neither 348 nor 540"),
    "padding of a tape.nii.gz": (gzip.compress(NIFTI) + bytes(512), "behind the end"),
    "another length.nii.gz": (gzip.compress(NIFTI)[:-4] + struct.pack("<I", len(NIFTI) + 1), "length check"),
    "an extension of gigabytes.nii": (nifti(b"\1\0\0\0" + struct.pack("<2i", 2**31 - 16, 6)), "more data"),
    "an extension of none.nii": (nifti(b"\1\0\0\0" + bytes(16), vox_offset=368), "vox_offset 368"),
    "a negative axis.nii": (nifti(dim=[3, 5, -4, 3, 1, 1, 1, 1]), "5x-4x3 voxels"),
    "bits.nii": (nifti(datatype=1, bitpix=1, voxels=bytes(8)), "element type 1"),
    "long doubles.nii": (nifti(datatype=1536, bitpix=128, voxels=bytes(960)), "element type 1536"),
    "a scale beyond float32.nii": (nifti(scl_slope=3e38, scl_inter=3e38), "beyond what float32 holds"),
    "doubles beyond float32.nii": (
        nifti(datatype=64, bitpix=64, voxels=np.full(60, 1e300).tobytes()), "beyond what float32 holds",
    ),
    "the edge of the world.nii": (nifti(qoffset_x=3e38, srow_x=[1, 0, 0, 3e38]), "origin"),
    "two sizes.mha": (meta("DimSize = 60 1 1\n"), "stands twice"),
    "digits of another width.mha": (meta(DimSize="\uff15 4 3"), "printable text"),
    "digits of another script.nrrd": (nrrd(sizes="\u0665 4 3"), "sizes: .*ASCII"),
    "spaces of another script.nrrd": (nrrd(sizes="5\u20034\u20033"), "ASCII"),
    "underscores in numbers.mha": (meta(Offset="1_0 0 0"), "3 finite numbers"),
    "hexadecimal numbers.mha": (meta(Offset="0x1p3 0 0"), "3 finite numbers"),
    "a zero byte in a number.mha": (meta(Offset="0\0 0 0"), "ElementDataFile"),
    "sixteen bits a letter.mha": (meta(voxels=b"").decode().encode("utf-16") + RAW, "ElementDataFile"),
    "a preset dictionary.mha": (
        meta(CompressedData="True", CompressedDataSize="66",
             voxels=(b"\x78\x20\0\0\0\1" + zlib.compress(RAW)[2:]).ljust(66, b"\0")[:66]),
        "damaged compressed data|need dictionary|voxel data",
    ),
    "gzip in the place of zlib.mha": (
        meta(CompressedData="True", CompressedDataSize=str(len(gzip.compress(RAW))), voxels=gzip.compress(RAW)),
        "damaged compressed data",
    ),
    "a million keys.mha": (meta("".join(f"k{i} = v\n" for i in range(150_000))), "ElementDataFile|header"),
    "a later version.nrrd": (nrrd().replace(b"NRRD0004", b"NRRD0009"), "NRRD"),
    "inches.nrrd": (nrrd('space units: "in" "in" "in"\n'), "space units"),
    "blocks.nrrd": (nrrd("block size: 2\n", type="block"), "block size"),
    "an address.nhdr": (nrrd("data file: file:///etc/passwd\n", voxels=b""), "voxels in another file"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_odd_and_legal(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(READ[name])
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, VOXELS)
    assert volume.geometry.spacing_xyz == (1, 1, 2)


@pytest.mark.parametrize("name", REFUSED)
def test_traps(tmp_path: Path, name: str) -> None:
    content, words = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(tmp_path / name)
    assert "\n" not in str(caught.value)
