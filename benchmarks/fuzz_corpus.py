"""Small files of every format that is read, and the injuries that fuzzing does to them. Everything follows from a number."""

from __future__ import annotations

import gzip
import struct
import tempfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

# Values that have broken readers, for any field of a text header.
NASTY = [
    b"", b"0", b"-1", b"1", b"3", b"2 2", b"5 4 3 1", b"0 0 0", b"65536 65536 65536", b"99999999999999999999 1 1",
    b"nan nan nan", b"inf 1 1", b"1e400 1 1", b"1e-320 1 1", b"1,2,3", b"(1,0,0) (0,1,0) (0,0,1)", b"(0,1,0) (1,0,0) (0,0,-1)",
    b"(1,0,0) none (0,1,0) (0,0,1)", b"1 0 0 0 1 0 0 0 0", b"-1 0 0 0 1 0 0 0 1", b"1 1 0 0 1 0 0 0 1", b"True", b"False",
    b"MET_SHORT", b"MET_DOUBLE", b"short", b"double", b"uchar", b"block", b"raw", b"gzip", b"bzip2", b"ascii", b"hex", b"big",
    b"little", b"LIST", b"../secret.raw", b"secret.raw", b"/etc/hostname", b"s%d.raw 1 2 1", b"LOCAL", b"A" * 1000,
    b"A" * 10_000, b"domain domain domain", b"vector domain domain domain", b"RAS", b"left-posterior-superior", b"scanner-xyz",
    b"\xff\xfe", b"\x00", b"2 2 2;", b"5\t4\t3", b"+5 +4 +3", b"5 4 3 ", b"%s%s%s%n",
]  # fmt: skip
KEYS = [
    b"ObjectType", b"NDims", b"BinaryData", b"BinaryDataByteOrderMSB", b"CompressedData", b"CompressedDataSize",
    b"TransformMatrix", b"Rotation", b"Offset", b"Origin", b"ElementSpacing", b"ElementSize", b"DimSize", b"ElementType",
    b"ElementNumberOfChannels", b"HeaderSize", b"ElementDataFile", b"Comment", b"type", b"dimension", b"space", b"sizes",
    b"space directions", b"space origin", b"kinds", b"endian", b"encoding", b"spacings", b"data file", b"byte skip",
    b"line skip", b"space dimension", b"axis mins", b"content", b"units", b"measurement frame", b"Transform", b"Parameters",
    b"FixedParameters", b"InitialTransformParameterFileName", b"NumberOfParameters", b"GridSize", b"Spacing",
]  # fmt: skip
SEPARATORS = [b" = ", b": ", b"=", b":=", b" : ", b" ", b"\r", b"\t"]
# Byte offset and struct format of every field of NIfTI-1's header that says something about grid or voxels.
NIFTI_FIELDS = [
    (0, "i"), (40, "h"), (42, "h"), (44, "h"), (46, "h"), (48, "h"), (50, "h"), (52, "h"), (68, "h"), (70, "h"), (72, "h"),
    (76, "f"), (80, "f"), (84, "f"), (88, "f"), (92, "f"), (108, "f"), (112, "f"), (116, "f"), (123, "B"), (252, "h"),
    (254, "h"), *[(256 + 4 * n, "f") for n in range(6)], *[(280 + 4 * n, "f") for n in range(12)], (344, "i"), (348, "i"),
    (352, "i"), (356, "i"),
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 3, 5, 7, 8, 16, 64, 128, 256, 348, 352, 368, 512, 540, 1024, 1006, 2304, 32767, -32768, 2**31 - 1,
           0.5, -0.5, 1e-9, 1e9, 1e30, float("nan"), float("inf"), -float("inf")]  # fmt: skip
SHAPE = (3, 4, 5)  # z, y, x


@dataclass
class Sample:
    """A file with what belongs to it.

    Args:
        name: File name, which says the format.
        content: Its bytes.
        beside: Further files by name.
        header: Where its header ends.
    """

    name: str
    content: bytes
    beside: dict[str, bytes]
    header: int


def _matrix(random: np.random.Generator) -> np.ndarray:
    """Columns of a direction: one of the axes' permutations with signs, or a rotation."""
    if random.integers(2):
        return np.eye(3)[random.permutation(3)] * random.choice([-1.0, 1.0], 3)
    return np.linalg.qr(random.normal(size=(3, 3)))[0]


def _voxels(random: np.random.Generator, code: str) -> bytes:
    return (random.normal(0, 40, SHAPE) + 50).clip(0, 120).astype(code).tobytes()


def _text(values: np.ndarray) -> str:
    return " ".join(f"{v:.9g}" for v in np.ravel(values))


def metaimage(random: np.random.Generator, suffix: str) -> Sample:
    """`.mha` or `.mhd`, raw or compressed, either byte order."""
    kinds = {"MET_SHORT": "i2", "MET_UCHAR": "u1", "MET_FLOAT": "f4", "MET_DOUBLE": "f8", "MET_UINT": "u4"}
    name, big, compress = str(random.choice(list(kinds))), bool(random.integers(2)), bool(random.integers(2))
    data = _voxels(random, (">" if big else "<") + kinds[name])
    data = zlib.compress(data) if compress else data
    place = "LOCAL" if suffix == ".mha" else "voxels.raw"
    lines = [
        "ObjectType = Image", "NDims = 3", "BinaryData = True", f"BinaryDataByteOrderMSB = {big}",
        f"CompressedData = {compress}", *([f"CompressedDataSize = {len(data)}"] if compress else []),
        f"TransformMatrix = {_text(_matrix(random).T)}", f"Offset = {_text(random.normal(0, 100, 3))}",
        "CenterOfRotation = 0 0 0", f"ElementSpacing = {_text(random.uniform(0.3, 5, 3))}",
        f"DimSize = {' '.join(map(str, SHAPE[::-1]))}", f"ElementType = {name}", f"ElementDataFile = {place}",
    ]  # fmt: skip
    head = "".join(f"{line}\n" for line in lines).encode()
    if suffix == ".mha":
        return Sample("image.mha", head + data, {}, len(head))
    return Sample("image.mhd", head, {"voxels.raw": data}, len(head))


def nrrd(random: np.random.Generator, suffix: str) -> Sample:
    """`.nrrd` or, with the voxels in a second file, `.nhdr`."""
    kinds = {"short": "i2", "unsigned char": "u1", "float": "f4", "double": "f8", "uint32": "u4"}
    name, big, compress = str(random.choice(list(kinds))), bool(random.integers(2)), bool(random.integers(2))
    data = _voxels(random, (">" if big else "<") + kinds[name])
    data = gzip.compress(data, mtime=0) if compress else data
    columns = (_matrix(random) * random.uniform(0.3, 5, 3)).T
    lines = [
        "NRRD0004", "# a comment", f"type: {name}", "dimension: 3",
        f"space: {random.choice(['left-posterior-superior', 'right-anterior-superior', 'left-anterior-superior'])}",
        f"sizes: {' '.join(map(str, SHAPE[::-1]))}",
        f"space directions: {' '.join('(' + ','.join(f'{v:.9g}' for v in c) + ')' for c in columns)}",
        "kinds: domain domain domain", f"endian: {'big' if big else 'little'}", f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: ({','.join(f'{v:.9g}' for v in random.normal(0, 100, 3))})", "key:=value",
        *(["data file: voxels.raw"] if suffix == ".nhdr" else []), "",
    ]  # fmt: skip
    head = "".join(f"{line}\n" for line in lines).encode()
    if suffix == ".nrrd":
        return Sample("image.nrrd", head + data, {}, len(head))
    return Sample("image.nhdr", head, {"voxels.raw": data}, len(head))


def nifti(random: np.random.Generator, suffix: str) -> Sample:
    """`.nii` or `.nii.gz`, written by nibabel: either byte order, qform, sform or both, scaled or not."""
    import nibabel

    order = str(random.choice(["<", ">"]))
    code = str(random.choice(["i2", "u1", "f4", "f8", "i4"]))
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(order + code)
    affine = np.eye(4)
    affine[:3, :3] = _matrix(random) * random.uniform(0.3, 5, 3)
    affine[:3, 3] = random.normal(0, 100, 3)
    array = np.frombuffer(_voxels(random, order + code), order + code).reshape(SHAPE).T
    header.set_data_shape(array.shape)
    codes = [(1, 0), (0, 1), (1, 1)][int(random.integers(3))]
    header.set_qform(affine, codes[0])
    header.set_sform(affine, codes[1])
    header.set_slope_inter(*((2, -1000) if random.integers(2) else (1, 0)))
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352
    raw = header.binaryblock + bytes(4) + array.T.tobytes()
    if suffix == ".nii":
        return Sample("image.nii", raw, {}, 352)
    return Sample("image.nii.gz", raw, {}, 352)  # compressed after the injury or before, see `injured`


MAKERS = {
    ".mha": metaimage, ".mhd": metaimage, ".nrrd": nrrd, ".nhdr": nrrd, ".nii": nifti, ".nii.gz": nifti,
}  # fmt: skip


def injured(sample: Sample, random: np.random.Generator) -> Sample:
    """The sample with one to three injuries, and one in twenty without any."""
    count = 0 if random.integers(20) == 0 else int(random.integers(1, 4))
    content, beside = sample.content, dict(sample.beside)
    binary = sample.name.endswith((".nii", ".nii.gz"))
    inside = binary and sample.name.endswith("gz") and bool(random.integers(2))  # of the compressed stream
    if inside:
        content = gzip.compress(content, mtime=0)
    for _ in range(count):
        if beside and random.integers(4) == 0:
            name = next(iter(beside))
            beside[name] = _injure_bytes(beside[name], random)
        elif binary and not inside and random.integers(3):
            content = _injure_nifti(content, random)
        elif not binary and random.integers(4):
            content = _injure_lines(content, sample.header, random)
        else:
            content = _injure_bytes(content, random)
    if binary and sample.name.endswith("gz") and not inside:
        content = gzip.compress(content, mtime=0)
    beside["secret.raw"] = bytes(480)
    return Sample(sample.name, content, beside, sample.header)


def _injure_bytes(raw: bytes, random: np.random.Generator) -> bytes:
    place = int(random.integers(max(1, len(raw))))
    kind = int(random.integers(6))
    if kind == 0:
        return raw[:place]
    if kind == 1:
        return raw + bytes(random.integers(0, 256, int(random.integers(1, 600)), dtype=np.uint8))
    if kind == 2:
        return raw[:place] + raw[place + int(random.integers(1, 40)) :]
    if kind == 3:
        return raw[:place] + bytes(random.integers(0, 256, int(random.integers(1, 8)), dtype=np.uint8)) + raw[place:]
    changed = bytearray(raw)
    if changed and kind == 4:
        changed[place] ^= 1 << int(random.integers(8))
    elif changed:
        changed[place] = int(random.integers(256))
    return bytes(changed)


def _injure_nifti(raw: bytes, random: np.random.Generator) -> bytes:
    offset, form = NIFTI_FIELDS[int(random.integers(len(NIFTI_FIELDS)))]
    number = NUMBERS[int(random.integers(len(NUMBERS)))]
    changed = bytearray(raw)
    if form != "f":
        number = int(number) if np.isfinite(number) else 0
        limit = {"h": 1 << 15, "i": 1 << 31, "B": 1 << 7}[form]
        number = (number + limit) % (2 * limit) - (0 if form == "B" else limit)
    with np.errstate(over="ignore"):
        number = float(np.float32(number)) if form == "f" else number
    if offset + struct.calcsize(form) <= len(changed):
        struct.pack_into(str(random.choice(["<", ">"])) + form, changed, offset, number)
    return bytes(changed)


def _injure_lines(raw: bytes, header: int, random: np.random.Generator) -> bytes:
    """A field's value, name or place in a header of lines."""
    lines = raw[:header].split(b"\n")
    n = int(random.integers(max(1, len(lines) - 1)))
    value = NASTY[int(random.integers(len(NASTY)))]
    key = KEYS[int(random.integers(len(KEYS)))]
    separator = SEPARATORS[int(random.integers(len(SEPARATORS)))]
    old = lines[n].replace(b":", b"=").split(b"=")[0].strip()
    kind = int(random.integers(7))
    if kind <= 1:
        usual = b": " if b": " in lines[n] else b" = "
        lines[n] = old + usual + value
    elif kind == 2:
        lines[n] = old + separator + value
    elif kind == 3:
        lines.insert(n, key + separator + value)
    elif kind == 4:
        del lines[n]
    elif kind == 5:
        lines.insert(n, lines[int(random.integers(len(lines)))])
    else:
        lines[n] = lines[n].replace(b" ", separator, 1)
    return b"\n".join(lines) + raw[header:]


def store(sample: Sample, folder: Path) -> Path:
    """Write a sample into a folder."""
    for name, content in sample.beside.items():
        (folder / name).write_bytes(content)
    (folder / sample.name).write_bytes(sample.content)
    return folder / sample.name


def transform_sample(random: np.random.Generator, kind: str) -> Sample:
    """An injured transform (`.tfm`, `.txt`, `.h5`) or DICOM series (`.dcm`)."""
    if kind == ".dcm":
        return _series(random)
    raw, header = _transform(int(random.integers(3)), kind)
    beside = {"secret.raw": bytes(480), "TransformParameters.0.txt": _transform(0, ".txt")[0]}
    for _ in range(0 if random.integers(20) == 0 else int(random.integers(1, 4))):
        if kind == ".h5" or random.integers(3) == 0:
            raw = _injure_bytes(raw, random)
        else:
            raw = _injure_lines(raw, header, random)
    return Sample(f"transform{kind}", raw, beside, header)


@cache
def _transform(number: int, kind: str) -> tuple[bytes, int]:
    """A rigid, a composite or a field, as a file, and where its header ends."""
    from sctlab.transforms.data import AffineTransform, BSplineTransform, DisplacementField, EulerTransform, compose
    from sctlab.transforms.elastix_writing import write_elastix
    from sctlab.transforms.itk_files import write_itk
    from sctlab_model.volume import Geometry

    random = np.random.default_rng(number)
    rigid = EulerTransform((0.1, 0.2, -0.3), (5, -4, 3), (10, 20, 30))
    grid = Geometry((5, 5, 5), (40, 40, 40), (-80, -80, -80))
    spline = BSplineTransform(grid, random.normal(0, 2, (3, 5, 5, 5)))
    field = DisplacementField(grid, random.normal(0, 2, (3, 5, 5, 5)))
    affine = AffineTransform(np.eye(3) + 0.05, (1, 2, 3))
    transform = (rigid, compose(affine, spline), compose(rigid, field))[number]
    with tempfile.TemporaryDirectory() as folder:
        if kind == ".txt":
            path = write_elastix((rigid, compose(affine, spline), spline)[number], folder, grid)[-1]
        else:
            path = write_itk(transform, Path(folder) / f"t{kind}", compress=number == 1)
        raw = path.read_bytes()
    return raw, len(raw)


def _series(random: np.random.Generator) -> Sample:
    """Four slices of which one is injured."""
    slices = list(_slices())
    n = int(random.integers(len(slices)))
    raw = slices[n]
    for _ in range(0 if random.integers(20) == 0 else int(random.integers(1, 4))):
        raw = _injure_bytes(raw, random)
    return Sample(f"{n}.dcm", raw, {f"{k}.dcm": s for k, s in enumerate(slices) if k != n}, len(raw))


@cache
def _slices() -> tuple[bytes, ...]:
    import SimpleITK as sitk

    contents = []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(4):
            image = sitk.GetImageFromArray(np.full((1, 12, 10), 40 + k, np.int16))
            tags = {"0020|0032": f"0\\0\\{3 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|000e": "1.2.3.4",
                    "0020|000d": "1.2.3", "0008|0060": "CT", "0028|0030": "2\\2", "0008|0016": "1.2.840.10008.5.1.4.1.1.2"}  # fmt: skip
            for key, text in tags.items():
                image.SetMetaData(key, text)
            image.SetSpacing((2.0, 2.0, 1.0))
            image.SetOrigin((0.0, 0.0, 3.0 * k))
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(f"{folder}/{k}.dcm")
            writer.Execute(image)
            contents.append(Path(folder, f"{k}.dcm").read_bytes())
    return tuple(contents)
