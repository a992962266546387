"""Backends: slices in, slices out, for one fold. The ensemble knows nothing else about a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import torch

from sctlab_model.bundle import Fold, load_fold, read_checked
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.network import build_network, fold_batch_norm
from sctlab_model.recipe import NetworkSettings

if TYPE_CHECKING:
    from pathlib import Path


Runtime = Literal["torch", "onnx"]


class Backend(Protocol):
    """One fold, ready to run.

    `__call__` takes float32 stacks [N, slices, Y, X] in the recipe's normalised units on `device`, with Y and X
    multiples of 32, and returns float32 [N, 1, Y, X] in [-1, 1] on the same device. The result for a sample
    doesn't depend on what else is in the batch. `batch_limit` is how many samples it may be given where PyTorch
    doesn't see its memory, None where it does.
    """

    device: torch.device
    description: str
    batch_limit: int | None

    def __call__(self, stacks: torch.Tensor) -> torch.Tensor: ...


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: Unknown name, or CUDA asked for where there is none.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("--device", found=f"'{name}'", expected="auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError("--device", found=f"'{name}'", expected="auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            "--device",
            found=f"'{name}' with {torch.cuda.device_count()} CUDA devices here",
            expected="a device that exists",
        )
    return device


def describe_device(device: torch.device) -> str:
    """The device in words, for the report."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


class TorchBackend:
    """PyTorch: float32 on the CPU; on CUDA fp16 with tanh and the output in float32, never bf16.

    Args:
        network: A `SynthesisNetwork` (moved, put into eval mode and changed in place).
        slices: Channels of its input.
        device: Where to run.
        half: fp16; by default on CUDA only.
    """

    batch_limit = None

    def __init__(
        self, network: torch.nn.Module, slices: int, device: torch.device, *, half: bool | None = None
    ) -> None:
        self.device = device
        self.half = device.type == "cuda" if half is None else half
        self.network = fold_batch_norm(network.float().cpu(), slices)
        self.network = self.network.to(device=device, memory_format=torch.channels_last).eval()
        if self.half:
            self.network.unet.half()
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.description = f"PyTorch {torch.__version__}, {'fp16' if self.half else 'fp32'}"

    def __call__(self, stacks: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            stacks = stacks.to(memory_format=torch.channels_last, dtype=torch.half if self.half else torch.float32)
            # tanh in float32: near -1 (air) fp16 steps are 1 HU
            return torch.tanh(self.network.unet(stacks).float())


class OnnxBackend:
    """ONNX Runtime: fp32 on the CPU, on CUDA what the file holds, with tensors bound where they lie.

    Args:
        model: An ONNX file's bytes: `stacks` float32 [n, slices, y, x] to `unit` float32 [n, 1, y, x].
        device: Where to run.
        name: The file, for messages.

    Raises:
        InputError: CUDA was asked for and its provider doesn't load; a silent run on the CPU would be 50 times slower.
        WeightsError: Not an ONNX model of this interface.
    """

    batch_limit = 8

    def __init__(self, model: bytes, device: torch.device, name: str = "ONNX model") -> None:
        import onnxruntime

        cuda = device.type == "cuda"
        wanted = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
        if cuda:
            onnxruntime.preload_dlls()  # the CUDA libraries that PyTorch brought
        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        if not cuda:
            options.intra_op_num_threads = torch.get_num_threads()
        # TF32 would round fp32 files to 10 bits; an arena in powers of two would take twice what it needs.
        cuda_options = {"device_id": device.index or 0, "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
        chosen = (wanted, cuda_options) if cuda else wanted
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=[chosen])
            names = [v.name for v in (*self.session.get_inputs(), *self.session.get_outputs())]
        except Exception as error:  # onnxruntime's own exceptions share no base class
            reason = str(error).strip().splitlines()[0][:160]
            if cuda and wanted not in onnxruntime.get_available_providers():
                raise _no_cuda_provider(device, reason) from error
            raise WeightsError(
                name, found=f"can't be loaded ({reason})", expected="an ONNX file of `sctlab export-onnx`"
            ) from error
        if self.session.get_providers()[0] != wanted:
            raise _no_cuda_provider(device, f"it offers {', '.join(self.session.get_providers())}")
        if names != ["stacks", "unit"]:
            raise WeightsError(name, found=f"an interface of {', '.join(names)}", expected="stacks to unit")
        self.device = device
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {wanted}"

    def __call__(self, stacks: torch.Tensor) -> torch.Tensor:
        stacks = stacks.float().contiguous()
        if self.device.type != "cuda":
            return torch.from_numpy(self.session.run(["unit"], {"stacks": stacks.numpy()})[0])
        unit = torch.empty((stacks.shape[0], 1, *stacks.shape[2:]), dtype=torch.float32, device=self.device)
        binding, index = self.session.io_binding(), self.device.index or 0
        binding.bind_input("stacks", "cuda", index, "float32", tuple(stacks.shape), stacks.data_ptr())
        binding.bind_output("unit", "cuda", index, "float32", tuple(unit.shape), unit.data_ptr())
        # The two libraries use streams of their own: each waits for the other.
        torch.cuda.current_stream(self.device).synchronize()
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's own exceptions share no base class
            if "allocate memory" not in str(error):
                raise
            raise torch.cuda.OutOfMemoryError(f"ONNX Runtime: {str(error).strip().splitlines()[0][:160]}") from error
        binding.synchronize_outputs()
        return unit


def _no_cuda_provider(device: torch.device, reason: str) -> InputError:
    return InputError(
        "ONNX Runtime",
        found=f"its CUDA provider doesn't load ({reason})",
        expected=f"a provider for {device}",
        advice="install the onnxruntime-gpu that matches PyTorch's CUDA, or choose --device cpu",
    )


def load_backend(
    folder: Path, fold: Fold, settings: NetworkSettings, device: torch.device, runtime: Runtime = "torch"
) -> Backend:
    """Load one fold of a bundle.

    Args:
        runtime: `torch` runs the safetensors; `onnx` the exported file, fp16 on CUDA and fp32 on the CPU.

    Raises:
        WeightsError: The file is missing, altered, or doesn't fit the recipe's network.
        InputError: ONNX Runtime can't use the device.
    """
    if runtime == "onnx":
        precision = "fp16" if device.type == "cuda" and "fp16" in fold.onnx else "fp32"
        if precision not in fold.onnx:
            raise WeightsError(
                folder,
                found="no ONNX file in the bundle",
                expected=f"one of precision {precision}",
                advice=f"run `sctlab export-onnx {folder}`",
            )
        return OnnxBackend(read_checked(folder, fold.onnx[precision]), device, fold.onnx[precision].file)
    # The state dict overwrites every parameter: skip the initialisation, which costs seconds at start.
    with torch.device("meta"):
        network = build_network(settings)
    state = load_fold(folder, fold)
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(
            folder / fold.weights.file,
            found=f"weights of another network ({reason[:160]})",
            expected=f"U-Net++ with {settings.encoder}",
        ) from error
    return TorchBackend(network, settings.slices, device)
