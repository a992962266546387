"""The story of a case: read, check, prepare, predict, judge, restore, write. Everything heavy is imported late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sctlab_model.bundle import Bundle, choose_bundle, read_bundle, unseen_folds
from sctlab_model.case_input import judge, read_case
from sctlab_model.case_output import header_texts, output_paths, private, record_path
from sctlab_model.cases import Case, Task
from sctlab_model.errors import ImplausibleError, InputError, ResourceError
from sctlab_model.gates import Policy, check_result, measure_result
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.reading import read_header
from sctlab_model.io.writing import write_volume
from sctlab_model.predictions import (
    BundleUse,
    CaseResult,
    ResultRecord,
    Software,
)
from sctlab_model.revision import describe_software
from sctlab_model.volume import AIR_HU, Volume

if TYPE_CHECKING:
    from sctlab_model.backends import Backend, Precision, Runtime
    from sctlab_model.preparation import Prepared
    from sctlab_model.recipe import Recipe


@dataclass
class LoadedCase:
    """A case that waits for the network."""

    case: Case
    result: CaseResult
    prepared: Prepared
    recipe: Recipe
    folds: Future[list[Backend]]


@dataclass
class Synthesis:
    """A synthetic CT that is not written yet.

    Args:
        volume: int16 HU on the source's grid; -1024 outside the mask.
        spread: Ensemble spread in HU on the same grid, where it was asked for.
        result: What happened.
    """

    volume: Volume
    spread: Volume | None
    result: CaseResult


class Synthesiser:
    """Holds the folds of the bundles in use; each is loaded once.

    Args:
        weights: Bundle folder, or None for the order of precedence of `choose_bundle`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        batch: Samples that run together; planned when left out.
        spread: Also write the ensemble's standard deviation.
        runtime: `torch`, `onnx` for bundles with exported files, or `openvino` on the CPU.
        policy: What becomes of strange inputs and results.
        precision: `bf16` with `openvino` only, never by itself.
    """

    def __init__(
        self,
        weights: Path | None = None,
        device: str = "auto",
        batch: int | None = None,
        spread: bool = False,
        runtime: Runtime = "torch",
        policy: Policy | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.weights, self.device_name, self.batch, self.spread = weights, device, batch, spread
        self.runtime: Runtime = runtime
        self.precision: Precision = precision
        self.policy = policy or Policy()
        self._loader = ThreadPoolExecutor(1, "weights")
        self._bundles: dict[Task, tuple[Path, Bundle]] = {}
        self._folds: dict[tuple[Path, int], Future[list[Backend]]] = {}
        self.device = ""

    def bundle(self, task: Task) -> tuple[Path, Bundle]:
        """The bundle for a task, read once."""
        if task not in self._bundles:
            folder = choose_bundle(task, self.weights)
            self._bundles[task] = folder, read_bundle(folder)
        return self._bundles[task]

    def bundle_use(self, task: Task) -> BundleUse:
        """What records keep of the bundle for a task."""
        return BundleUse.of(self.bundle(task)[1])

    def start_loading(self, case: Case) -> Future[list[Backend]]:
        """Load a case's folds in a second thread, while the image is read: importing torch takes seconds."""
        folder, bundle = self.bundle(case.task)
        group = bundle.group_for(case)
        key = folder, bundle.groups.index(group)
        if key not in self._folds:
            self._folds[key] = self._loader.submit(self._load, folder, bundle, key[1])
        return self._folds[key]

    def load_all(self, cases: Iterable[Case]) -> None:
        """Load everything that cases need, so that wrong weights or a missing device are known before the first one.

        A case whose region no group serves is that case's own problem, and told when its turn comes.

        Raises:
            WeightsError, InputError: No bundle for a task, altered weights, a device that isn't there.
        """
        waiting: list[Future[list[Backend]]] = []
        for case in cases:
            self.bundle(case.task)
            try:
                waiting.append(self.start_loading(case))
            except InputError:
                continue
        for future in dict.fromkeys(waiting):
            future.result()

    def _load(self, folder: Path, bundle: Bundle, group: int) -> list[Backend]:
        from sctlab_model.backends import load_backend
        from sctlab_model.device import choose_device, describe_device

        device = choose_device(self.device_name)
        self.device = describe_device(device)
        folds = bundle.groups[group].folds
        return [
            load_backend(folder, fold, bundle.recipe.network, device, self.runtime, self.precision) for fold in folds
        ]

    def load(self, case: Case) -> LoadedCase:
        """Everything before the network: read, check, prepare. Meanwhile the weights load.

        Raises:
            InputError, WeightsError, ResourceError: The case can't be used, or no fold may predict it.
        """
        if case.problem is not None:
            raise case.problem
        bundle = self.bundle(case.task)[1]
        result = CaseResult(bundle=self.bundle_use(case.task).id)
        result.folds = unseen_folds(bundle.group_for(case), case.id)
        for image in (case.source, case.mask):
            if isinstance(image, Path):
                read_header(image)  # what its header gives away is refused before PyTorch is imported for it
        folds = self.start_loading(case)
        with _timed(result, "read"), _memory(case):
            source, mask = read_case(case, result, bundle.recipe, self.policy)
        with _timed(result, "prepare"), _memory(case):
            from sctlab_model.preparation import oriented_geometry, prepare
            from sctlab_model.resampling import describe_resampling

            prepared = prepare(source, mask, bundle.recipe)
            if prepared.resampled:
                own = oriented_geometry(source.geometry).spacing_xyz
                note, doubts = describe_resampling(own, bundle.recipe.spacing_xyz)
                result.notes.append(note)
                result.warnings += doubts
        result.statistics = prepared.statistics
        return LoadedCase(case, result, prepared, bundle.recipe, folds)

    def predict(self, loaded: LoadedCase, *, progress: Callable[[int, int], None] | None = None) -> Synthesis:
        """Predict a loaded case and judge the result; nothing is written.

        Raises:
            ImplausibleError: The result did not pass the output gate.
            WeightsError, ResourceError: The weights or the memory aren't there.
        """
        case, result, recipe, prepared = loaded.case, loaded.result, loaded.recipe, loaded.prepared
        validation = self.bundle(case.task)[1].validation
        with _timed(result, "wait for weights"):
            folds = loaded.folds.result()
        if len(result.folds) < len(folds):
            result.warnings.append(f"only folds {result.folds} were used: the others were trained on this case")
        with _timed(result, "predict"), _memory(case):
            from sctlab_model.ensemble import predict_volume

            prediction = predict_volume(
                prepared.source,
                prepared.mask,
                [folds[k] for k in result.folds],
                recipe,
                spread=self.spread or (validation is not None and "spread_hu" in validation.ranges_for(case.region)),
                batch=self.batch,
                progress=progress,
            )
        result.runtime = folds[0].description
        if self.precision != "fp32":
            result.warnings.append(f"computed in {self.precision}, as --precision asked: other numbers than fp32")
        result.batch, result.seconds["network"] = prediction.batch, prediction.network_seconds
        result.slices = int(prepared.mask.any(axis=(1, 2)).sum())
        result.limits = "validation" if validation is not None and validation.ranges_for(case.region) else "absolute"
        with _timed(result, "judge"):
            result.measured = measure_result(
                prediction.hu, prepared.mask, prediction.spread_hu, upper_hu=recipe.target_range_hu[1]
            )
            findings = check_result(result.measured, case.region, validation)
            judge(findings, self.policy, case, result, ImplausibleError)
        loaded.prepared = prepared = prepared.without_source()  # its memory is wanted for the way back
        with _timed(result, "restore"), _memory(case):
            from sctlab_model.preparation import restore

            volume = restore(prediction.hu, prepared, recipe, outside=AIR_HU)
            spread = None
            if self.spread and prediction.spread_hu is not None:
                spread = restore(prediction.spread_hu, prepared, recipe, outside=0)
        result.software = Software(**describe_software(), device=self.device)
        return Synthesis(volume, spread, result)

    def finish(
        self,
        loaded: LoadedCase,
        output: Path,
        *,
        record: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> CaseResult:
        """Predict a loaded case and write `output / case.output_name`, with its record beside it.

        Args:
            loaded: From `load`.
            output: Folder of the results.
            record: Also write `<name>.record.json`; the header holds the essence in any case.
            progress: Called with (slices done, slices in all).

        Raises:
            InputError, WeightsError, ImplausibleError, ResourceError: With nothing written.
        """
        synthesis = self.predict(loaded, progress=progress)
        case, result = loaded.case, synthesis.result
        use = self.bundle_use(case.task)
        with _timed(result, "write"):
            where, spread_where = output_paths(case, output)
            result.output = case.output_name
            metadata = header_texts(result, use)
            if synthesis.spread is not None:
                write_volume(synthesis.spread, spread_where, metadata=metadata)
            write_volume(synthesis.volume, where, metadata=metadata)
            result.output_sha256 = file_sha256(where)
            if record:
                used = [f.weights_sha256 for f in use.folds_of(case.region, result.folds)]
                ResultRecord(
                    result=private(result, case),
                    bundle_name=use.name,
                    demonstration=use.demonstration,
                    intended_use=use.intended_use,
                    weights_sha256=used,
                ).write(record_path(case, output))
        return result

    def synthesise(
        self, case: Case, output: Path, *, record: bool = True, progress: Callable[[int, int], None] | None = None
    ) -> CaseResult:
        """The whole story of one case: `load`, then `finish`."""
        return self.finish(self.load(case), output, record=record, progress=progress)


@contextmanager
def _timed(result: CaseResult, step: str) -> Iterator[None]:
    """Add the block's duration to `result.seconds[step]`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        result.seconds[step] = result.seconds.get(step, 0.0) + time.perf_counter() - start


@contextmanager
def _memory(case: Case) -> Iterator[None]:
    """Name a lack of memory as what it is."""
    try:
        yield
    except MemoryError as error:
        raise _too_little_memory(case, str(error)) from error
    except RuntimeError as error:  # PyTorch's own classes for this are not imported here
        if type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
            raise _too_little_memory(case, str(error)) from error
        raise


def _too_little_memory(case: Case, text: str) -> ResourceError:
    return ResourceError(
        case.id,
        found=f"memory ran out ({text.splitlines()[0][:120] if text else 'no detail'})",
        expected="enough for the image and the network",
        advice="give --batch 1, a smaller image or a machine with more memory",
    )
