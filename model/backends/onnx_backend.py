"""ONNX Runtime, on exported files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch

from sctlab_model.backends import Precision
from sctlab_model.bundle import Fold, HashedFile, read_checked
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.network.settings import NetworkSettings
from sctlab_model.window import Window


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

    batch_limit: int | None = 8

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
            _share_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
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

    def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor:
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


@cache
def _share_memory() -> None:
    """One arena for all sessions of the process: folds run one after the other, and a session of its own keeps for each
    what its largest call took."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    # Extended by what is asked for (1); in powers of two it would take up to twice of it.
    settings = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(memory, settings)


def load(
    folder: Path, fold: Fold, settings: NetworkSettings, device: torch.device, precision: Precision = "fp32"
) -> OnnxBackend:
    """Run a fold's exported file: fp16 on CUDA where there is one, fp32 on the CPU.

    Raises:
        WeightsError: There is none, or it was altered.
        InputError: ONNX Runtime can't use the device.
    """
    stored: Literal["fp32", "fp16"] = "fp16" if device.type == "cuda" and "fp16" in fold.onnx else "fp32"
    entry = onnx_file(folder, fold, stored)
    return OnnxBackend(read_checked(folder, entry), device, entry.file)


def onnx_file(folder: Path, fold: Fold, precision: Literal["fp32", "fp16"]) -> HashedFile:
    """The exported file of a fold.

    Raises:
        WeightsError: The fold wasn't exported in this precision.
    """
    if precision not in fold.onnx:
        raise WeightsError(
            folder,
            found="no ONNX file in the bundle",
            expected=f"one of precision {precision}",
            advice=f"run `sctlab export-onnx {folder}`",
        )
    return fold.onnx[precision]


def _no_cuda_provider(device: torch.device, reason: str) -> InputError:
    return InputError(
        "ONNX Runtime",
        found=f"its CUDA provider doesn't load ({reason})",
        expected=f"a provider for {device}",
        advice="install the onnxruntime-gpu that matches PyTorch's CUDA, or choose --device cpu",
    )
