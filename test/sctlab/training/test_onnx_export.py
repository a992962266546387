"""ONNX files of a bundle: the same HU as PyTorch, at any batch and plane size, in one hashed file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sctlab.training.onnx_export import export_bundle
from sctlab_model.backends import load_backend
from sctlab_model.backends.onnx_backend import OnnxBackend
from sctlab_model.bundle import SHIPPED_WEIGHTS, load_fold, read_bundle, save_fold, write_bundle
from sctlab_model.cases import Task, read_challenge
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.preparation import prepare, stack_indices

CPU = torch.device("cpu")
HU = 2047.5  # HU of one unit of the network's output


@pytest.fixture(scope="module")
def exported(make_bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_bundle(tmp_path_factory.mktemp("onnx") / "tiny", folds=1)
    export_bundle(folder)
    return folder


def stacks(folder: Path, count: int, rows: int, columns: int) -> torch.Tensor:
    slices = read_bundle(folder).recipe.network.slices
    return torch.rand(count, slices, rows, columns, generator=torch.Generator().manual_seed(count)) * 2 - 1


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 96, 64), (2, 160, 192)])
def test_fp32_is_as_close_as_promised(exported: Path, shape: tuple[int, int, int]) -> None:
    bundle = read_bundle(exported)
    fold = bundle.groups[0].folds[0]
    torch_backend = load_backend(exported, fold, bundle.recipe.network, CPU)
    batch = stacks(exported, *shape)
    wanted = torch_backend(batch).numpy()
    backend = OnnxBackend((exported / fold.onnx["fp32"].file).read_bytes(), CPU)
    error = np.abs(backend(batch).numpy() - wanted) * HU
    assert error.shape == (shape[0], 1, *shape[1:])
    assert error.mean() <= 0.05
    assert error.max() <= 0.5


@pytest.mark.parametrize("task", list(Task))
def test_fp16_is_as_close_as_promised(tmp_path: Path, task: Task) -> None:
    """On trained weights and a patient: what fp16 loses depends on how large the activations are."""
    shipped = SHIPPED_WEIGHTS / f"demo-{task}"
    bundle = read_bundle(shipped)
    folds = []
    for fold in bundle.groups[0].folds[:2]:  # the second one's weights are put into the first one's graph
        state = load_fold(shipped, fold)
        folds.append(fold.model_copy(update={"weights": save_fold(state, tmp_path, fold.weights.file, "float32")}))
    group = bundle.groups[0].model_copy(update={"folds": tuple(folds)})
    write_bundle(bundle.model_copy(update={"groups": (group,)}), tmp_path)
    export_bundle(tmp_path, ("fp16",))
    fold = read_bundle(tmp_path).groups[0].folds[-1]

    case = read_challenge(Path(__file__).parents[2] / "cases" / task)
    prepared = prepare(read_volume(case.source), read_mask(case.mask), bundle.recipe)
    middle = slice(len(prepared.source) // 2, len(prepared.source) // 2 + 2)
    batch = torch.from_numpy(prepared.source[stack_indices(len(prepared.source), bundle.recipe.network.slices)[middle]])
    wanted = load_backend(tmp_path, fold, bundle.recipe.network, CPU)(batch).numpy()
    found = OnnxBackend((tmp_path / fold.onnx["fp16"].file).read_bytes(), CPU)(batch).numpy()
    error = (np.abs(found - wanted) * HU)[:, 0][prepared.mask[middle]]
    assert error.mean() <= 0.5
    assert np.percentile(error, 99.9) <= 2.0


def test_a_sample_does_not_depend_on_its_batch(exported: Path) -> None:
    bundle = read_bundle(exported)
    backend = load_backend(exported, bundle.groups[0].folds[0], bundle.recipe.network, CPU, "onnx")
    batch = stacks(exported, 4, 64, 64)
    together, alone = backend(batch), torch.cat([backend(b) for b in batch.split(1)])
    assert float((together - alone).abs().max()) * HU <= 0.5


def test_files_are_alone_and_hashed(exported: Path) -> None:
    bundle = read_bundle(exported)
    fold = bundle.groups[0].folds[0]
    assert set(fold.onnx) == {"fp32", "fp16"}
    assert len(list(exported.iterdir())) == 1 + 1 + 2  # manifest, weights, two models: no external data
    sizes = [(exported / fold.onnx[p].file).stat().st_size for p in ("fp16", "fp32")]
    assert sizes[0] < sizes[1]
    path = exported / fold.onnx["fp32"].file
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(WeightsError, match="altered"):
            load_backend(exported, fold, bundle.recipe.network, CPU, "onnx")
    finally:
        path.write_bytes(data)
    assert load_fold(exported, fold)


def test_a_bundle_without_onnx_says_how_to_make_it(make_bundle, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "plain", folds=1)
    bundle = read_bundle(folder)
    with pytest.raises(WeightsError, match="export-onnx"):
        load_backend(folder, bundle.groups[0].folds[0], bundle.recipe.network, CPU, "onnx")


def test_a_cuda_provider_that_does_not_load_is_an_error(exported: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    fold = read_bundle(exported).groups[0].folds[0]
    with pytest.raises(InputError, match="CUDA provider"):
        OnnxBackend((exported / fold.onnx["fp16"].file).read_bytes(), torch.device("cuda:0"))


def test_other_files_are_refused() -> None:
    with pytest.raises(WeightsError, match="export-onnx"):
        OnnxBackend(b"not a model", CPU)
