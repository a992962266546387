"""One contract for every backend: whatever runs a fold, slices in and slices out are the same.

A backend joins by one entry in BACKENDS: a function from (bundle folder, fold number) to a `Backend` on the CPU.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sctlab_model.backends import Backend, load_backend
from sctlab_model.backends.openvino_backend import check_precision
from sctlab_model.backends.torch_backend import TorchBackend
from sctlab_model.bundle import SHIPPED_WEIGHTS, read_bundle
from sctlab_model.cases import Task, read_challenge
from sctlab_model.ensemble import predict_volume
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.network import build_network
from sctlab_model.network.settings import NetworkSettings, ResidualUNet3DSettings, UNetPlusPlusSettings
from sctlab_model.preparation import prepare, stack_indices
from sctlab_model.recipe import Recipe
from sctlab_model.window import Window

GOLDEN = Path(__file__).parent / "golden_tiny.npz"


def load_torch(folder: Path, fold: int) -> Backend:
    bundle = read_bundle(folder)
    return load_backend(folder, bundle.groups[0].folds[fold], bundle.recipe.network, torch.device("cpu"))


def load_onnx(folder: Path, fold: int) -> Backend:
    pytest.importorskip("onnxruntime")
    from sctlab.training.onnx_export import export_bundle

    exported = folder.with_name("onnx")
    if not exported.exists():
        shutil.copytree(folder, exported)
        export_bundle(exported, ("fp32",))
    bundle = read_bundle(exported)
    return load_backend(exported, bundle.groups[0].folds[fold], bundle.recipe.network, torch.device("cpu"), "onnx")


def load_openvino(folder: Path, fold: int) -> Backend:
    pytest.importorskip("openvino", reason="OpenVINO, an optional runtime, isn't installed")
    bundle = read_bundle(folder)
    return load_backend(folder, bundle.groups[0].folds[fold], bundle.recipe.network, torch.device("cpu"), "openvino")


BACKENDS: dict[str, Callable[[Path, int], Backend]] = {
    "onnx": load_onnx,
    "openvino": load_openvino,
    "torch": load_torch,
}
HU = 2047.5  # of one unit of the network's output
TOLERANCE = 1e-4  # 0.2 HU


def stacks(count: int = 2, size: tuple[int, int] = (32, 64), seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 3, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def backends(request: pytest.FixtureRequest, cbct_bundle: Path) -> list[Backend]:
    """The two folds of the tiny bundle."""
    return [BACKENDS[request.param](cbct_bundle, k) for k in range(2)]


class TestBackend:
    """What `sctlab_model.backends.Backend` promises."""

    @pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
    @pytest.mark.parametrize("count", [1, 3])
    def test_shape_type_and_range(self, backends: list[Backend], size: tuple[int, int], count: int) -> None:
        output = backends[0](stacks(count, size))
        assert output.shape == (count, 1, *size)
        assert output.dtype == torch.float32
        assert output.device.type == backends[0].device.type == "cpu"
        assert output.abs().max() <= 1
        assert output.std() > 0

    def test_deterministic(self, backends: list[Backend]) -> None:
        assert torch.equal(backends[0](stacks()), backends[0](stacks()))

    def test_input_is_left_alone(self, backends: list[Backend]) -> None:
        given = stacks()
        backends[0](given)
        assert torch.equal(given, stacks())

    def test_memory_layout_does_not_matter(self, backends: list[Backend]) -> None:
        given = stacks()
        expected = backends[0](given)
        strided = torch.flip(given, (-1,)).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(backends[0](torch.flip(strided, (-1,))), expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(
            backends[0](given.repeat(2, 1, 1, 1)[::2]),
            backends[0](given.repeat(2, 1, 1, 1)[::2].clone()),
            atol=TOLERANCE,
            rtol=0,
        )

    @pytest.mark.parametrize("window", [Window(0, 64, 0, 96), Window(5, 40, 60, 96), Window(63, 64, 0, 1)])
    def test_a_window_holds_what_the_plane_holds(self, backends: list[Backend], window: Window) -> None:
        given = stacks(2, (64, 96))
        whole, found = backends[0](given), backends[0](given, window)
        assert found.shape == whole.shape
        torch.testing.assert_close(found[window.part], whole[window.part], atol=TOLERANCE, rtol=0)
        elsewhere = torch.ones_like(found, dtype=torch.bool)
        elsewhere[window.part] = False
        assert ((found == -1) | ((found - whole).abs() <= TOLERANCE))[elsewhere].all()

    def test_a_sample_does_not_see_its_batch(self, backends: list[Backend]) -> None:
        given = stacks(8)
        together = backends[0](given)
        alone = torch.cat([backends[0](given[k : k + 1]) for k in range(8)])
        torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=0)

    def test_golden(self, backends: list[Backend]) -> None:
        """A fixed network on a fixed input gives what it gave when this file was made (see `make_golden`)."""
        golden = np.load(GOLDEN, allow_pickle=False)
        for k, backend in enumerate(backends):
            output = backend(torch.from_numpy(golden["stacks"]))
            np.testing.assert_allclose(
                output.numpy(), golden[f"fold_{k}"], atol=2e-3
            )  # 4 HU: other machines, other sums

    def test_fold_mean_and_spread(self, backends: list[Backend], tiny_recipe: Recipe) -> None:
        """The ensemble is the mean, and the population deviation, of its members."""
        source, mask = stacks(1, (32, 64))[0].numpy(), np.ones((3, 32, 64), bool)
        whole = predict_volume(source, mask, backends, tiny_recipe, spread=True)
        members = np.stack(
            [
                predict_volume(source, mask, [backend], tiny_recipe.model_copy(update={"views": (view,)})).hu
                for backend in backends
                for view in tiny_recipe.views
            ]
        )
        np.testing.assert_allclose(whole.hu, members.mean(0), atol=0.05)
        np.testing.assert_allclose(whole.spread_hu, members.std(0), atol=0.1)
        assert members.std(0).mean() > 5  # otherwise this proves nothing


# --- loading and devices -----------------------------------------------------------------------------------------------


def test_folding_batch_norm_keeps_the_output(random_network: Callable[[int], torch.nn.Module]) -> None:
    network, given = random_network(0), stacks()
    with torch.inference_mode():
        expected = network(given)
    backend = TorchBackend(random_network(0), 3, torch.device("cpu"))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backend.network.modules())
    torch.testing.assert_close(backend(given), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("task", list(Task))
def test_fp16_stays_within_its_bounds(task: Task) -> None:
    """What CUDA computes, emulated: input, weights (but for the first convolution's) and outputs in fp16, sums in float32.

    PyTorch's own fp16 on a CPU also sums in fp16, which CUDA doesn't. Trained folds on a patient: what is lost
    depends on how large the activations are. Each fold is off by little in the mean; in few voxels one fold can
    be off by 5 HU (99.9th percentile), so that bound is asked of what a user gets, the mean of folds and views.
    """
    folder = SHIPPED_WEIGHTS / f"demo-{task}"
    bundle = read_bundle(folder)
    slices = bundle.recipe.network.slices
    case = read_challenge(Path(__file__).parents[1] / "cases" / task)
    prepared = prepare(read_volume(case.source), read_mask(case.mask), bundle.recipe)
    middle = len(prepared.source) // 2
    given = torch.from_numpy(prepared.source[stack_indices(len(prepared.source), slices)[middle : middle + 1]])

    def rounded(module: torch.nn.Module, inputs: tuple, output: object) -> object:
        return output.half().float() if isinstance(output, torch.Tensor) else output

    assert bundle.recipe.views == ("identity", "flip_x")

    def synthesised(backend: Backend, planes: torch.Tensor) -> torch.Tensor:
        return (backend(planes) + backend(planes.flip(-1)).flip(-1)) / 2

    errors = []
    for fold in bundle.groups[0].folds:
        backend = load_backend(folder, fold, bundle.recipe.network, torch.device("cpu"))
        exact = synthesised(backend, given)
        first = next(m for m in backend.network.modules() if isinstance(m, torch.nn.Conv2d))
        kept = {id(parameter) for parameter in first.parameters()}
        for parameter in backend.network.parameters():
            if id(parameter) not in kept:
                parameter.data = parameter.data.half().float()
        for module in (m for part in backend.network.parts.values() for m in part.modules()):
            module.register_forward_hook(rounded)
        errors.append((synthesised(backend, given.half().float()) - exact).numpy()[0, 0][prepared.mask[middle]] * HU)
        assert 0 < np.abs(errors[-1]).mean() <= 0.5
    assert np.percentile(np.abs(np.mean(errors, axis=0)), 99.9) <= 2.0


@pytest.mark.parametrize(
    "network",
    [
        UNetPlusPlusSettings(encoder="tu-mobilenetv3_small_100", slices=3, decoder_channels=(16, 16, 8, 8, 4)),
        UNetPlusPlusSettings(encoder="resnet18", slices=3, decoder_channels=(16, 16, 8, 8, 4)),
        ResidualUNet3DSettings(),
    ],
)
def test_the_first_convolution_of_a_half_network_keeps_float32(network: NetworkSettings) -> None:
    torch.manual_seed(0)
    built = build_network(network).eval()
    exact = TorchBackend(copy.deepcopy(built), network.slices, torch.device("cpu"), half=False)
    half = TorchBackend(built, network.slices, torch.device("cpu"), half=True)
    kinds = [p.dtype for p in half.network.parameters()]
    assert kinds[0] == torch.float32
    assert kinds.count(torch.float32) <= 2
    if isinstance(network, ResidualUNet3DSettings):  # a CPU pools no volumes in fp16
        return
    given = torch.randn(1, network.slices, 64, 64)
    assert (half(given) - exact(given)).abs().max() < 0.01


@pytest.mark.parametrize("task", list(Task))
def test_openvino_computes_what_torch_computes_and_bf16_only_when_asked(task: Task) -> None:
    """Trained weights on a patient: fp32 to a hundredth of an HU, also where OpenVINO itself would choose bfloat16."""
    pytest.importorskip("openvino", reason="OpenVINO, an optional runtime, isn't installed")
    folder = SHIPPED_WEIGHTS / f"demo-{task}"
    bundle = read_bundle(folder)
    case = read_challenge(Path(__file__).parents[1] / "cases" / task)
    prepared = prepare(read_volume(case.source), read_mask(case.mask), bundle.recipe)
    middle = len(prepared.source) // 2
    given = torch.from_numpy(
        prepared.source[stack_indices(len(prepared.source), bundle.recipe.network.slices)][middle : middle + 1]
    )
    load = partial(load_backend, folder, bundle.groups[0].folds[0], bundle.recipe.network, torch.device("cpu"))
    wanted = load()(given)
    exact, rough = load("openvino"), load("openvino", "bf16")
    assert float((exact(given) - wanted).abs().max()) * HU <= 0.05
    assert "fp32" in exact.description
    assert "bf16" in rough.description
    assert float((rough(given) - wanted).abs().mean()) * HU <= 20


def test_bf16_and_openvino_are_refused_where_they_are_not(cbct_bundle: Path) -> None:
    bundle = read_bundle(cbct_bundle)
    load = partial(load_backend, cbct_bundle, bundle.groups[0].folds[0], bundle.recipe.network)
    with pytest.raises(InputError, match="--runtime openvino"):
        load(torch.device("cpu"), "torch", "bf16")
    with pytest.raises(InputError, match="--device cpu"):
        load(torch.device("cuda"), "openvino")


def test_bf16_that_openvino_does_not_compute_in_is_refused() -> None:
    check_precision("bf16", "bf16")
    check_precision("fp32", "f32")
    with pytest.raises(InputError, match="computes in f32; expected --precision fp32"):
        check_precision("bf16", "f32")


def test_weights_of_another_network_are_refused(cbct_bundle: Path) -> None:
    bundle = read_bundle(cbct_bundle)
    other = bundle.recipe.network.model_copy(update={"slices": 5})
    with pytest.raises(WeightsError, match="weights of another network"):
        load_backend(cbct_bundle, bundle.groups[0].folds[0], other, torch.device("cpu"))


def make_golden(backend_of: Callable[[int], Backend]) -> None:
    """Freeze the output of the tiny network: run by hand after a deliberate change of the network."""
    given = stacks(1)
    np.savez_compressed(GOLDEN, stacks=given.numpy(), **{f"fold_{k}": backend_of(k)(given).numpy() for k in range(2)})


def test_onnx_sessions_share_their_memory(cbct_bundle: Path, tmp_path: Path) -> None:
    """Five folds took three times the memory of one, each session keeping what its largest call had taken."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "bundle"
    shutil.copytree(cbct_bundle, folder)
    load_onnx(folder, 0)
    program = """
import sys, torch
from pathlib import Path
from sctlab_model.backends import load_backend
from sctlab_model.bundle import read_bundle
folder = Path(sys.argv[1])
bundle = read_bundle(folder)
folds = [load_backend(folder, f, bundle.recipe.network, torch.device("cpu"), "onnx") for f in bundle.groups[0].folds]
given = torch.zeros(4, bundle.recipe.network.slices, 512, 512)
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
sizes = [resident()]
for fold in folds:
    fold(given)
    sizes.append(resident())
print(sizes[1] - sizes[0], sizes[2] - sizes[1])
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "onnx")], capture_output=True, encoding="utf-8"
    )
    assert ended.returncode == 0, ended.stderr
    first, second = map(float, ended.stdout.split())
    assert first > 30
    assert second < 0.3 * first
