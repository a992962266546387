"""The story of a case: read, check, prepare, predict, restore, write. Everything heavy is imported late."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sctlab_model.bundle import Bundle, choose_bundle, read_bundle, unseen_folds
from sctlab_model.cases import Case, Task
from sctlab_model.checks import check_mask, check_source, fit_mask
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import AIR_HU, Volume

if TYPE_CHECKING:
    from sctlab_model.backends import Backend, Runtime
    from sctlab_model.preparation import Prepared
    from sctlab_model.recipe import Recipe

SPREAD_FOLDER = "uncertainty"


@dataclass
class CaseReport:
    """What happened to one case, for people and for `--report`."""

    case: str
    output: str = ""
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    folds: list[int] = field(default_factory=list)
    batch: int = 0
    slices: int = 0
    statistics: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @contextmanager
    def timed(self, step: str):
        """Add the block's duration to `seconds[step]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def output_paths(case: Case, output: Path) -> tuple[Path, Path]:
    """Where a case's sCT is written, and the ensemble's spread."""
    return output / case.output_name, output / SPREAD_FOLDER / _spread_name(case)


@dataclass
class LoadedCase:
    """A case that waits for the network."""

    case: Case
    report: CaseReport
    prepared: Prepared
    recipe: Recipe
    folds: Future[list[Backend]]


class Synthesiser:
    """Holds the folds of the bundles in use; each is loaded once.

    Args:
        weights: Bundle folder, or None for the order of precedence of `choose_bundle`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        batch: Samples that run together; planned when left out.
        spread: Also write the ensemble's standard deviation.
        runtime: `torch`, or `onnx` for bundles with exported files.
    """

    def __init__(
        self,
        weights: Path | None = None,
        device: str = "auto",
        batch: int | None = None,
        spread: bool = False,
        runtime: Runtime = "torch",
    ) -> None:
        self.weights, self.device_name, self.batch, self.spread = weights, device, batch, spread
        self.runtime: Runtime = runtime
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

    def start_loading(self, case: Case) -> Future[list[Backend]]:
        """Load a case's folds in a second thread, while the image is read: importing torch takes seconds."""
        folder, bundle = self.bundle(case.task)
        group = bundle.group_for(case)
        key = folder, bundle.groups.index(group)
        if key not in self._folds:
            self._folds[key] = self._loader.submit(self._load, folder, bundle, key[1])
        return self._folds[key]

    def _load(self, folder: Path, bundle: Bundle, group: int) -> list[Backend]:
        from sctlab_model.backends import load_backend
        from sctlab_model.device import choose_device, describe_device

        device = choose_device(self.device_name)
        self.device = describe_device(device)
        folds = bundle.groups[group].folds
        return [load_backend(folder, fold, bundle.recipe.network, device, self.runtime) for fold in folds]

    def load(self, case: Case) -> LoadedCase:
        """Everything before the network: read, check, prepare. Meanwhile the weights load.

        Raises:
            InputError, WeightsError: The case can't be used, or no fold may predict it.
        """
        if case.problem is not None:
            raise case.problem
        report = CaseReport(case.id)
        bundle = self.bundle(case.task)[1]
        report.folds = unseen_folds(bundle.group_for(case), case.id)
        folds = self.start_loading(case)
        with report.timed("read"):
            source, mask = read_case(case, report)
        with report.timed("prepare"):
            from sctlab_model.preparation import prepare

            prepared = prepare(source, mask, bundle.recipe)
            if prepared.resampled:
                report.warnings.append("resampled to " + "x".join(f"{s:g}" for s in bundle.recipe.spacing_xyz) + " mm")
        report.statistics = prepared.statistics
        return LoadedCase(case, report, prepared, bundle.recipe, folds)

    def finish(
        self, loaded: LoadedCase, output: Path, *, progress: Callable[[int, int], None] | None = None
    ) -> CaseReport:
        """Predict a loaded case and write `output / case.output_name`.

        Raises:
            InputError, WeightsError: With nothing written.
        """
        case, report, recipe, prepared = loaded.case, loaded.report, loaded.recipe, loaded.prepared
        with report.timed("wait for weights"):
            folds = loaded.folds.result()
        if len(report.folds) < len(folds):
            report.warnings.append(f"only folds {report.folds} were used: the others were trained on this case")
        with report.timed("predict"):
            from sctlab_model.ensemble import predict_volume

            prediction = predict_volume(
                prepared.source,
                prepared.mask,
                [folds[k] for k in report.folds],
                recipe,
                spread=self.spread,
                batch=self.batch,
                progress=progress,
            )
        report.batch, report.seconds["network"] = prediction.batch, prediction.network_seconds
        report.slices = int(prepared.mask.any(axis=(1, 2)).sum())
        loaded.prepared = prepared = prepared.without_source()  # its memory is wanted for the way back
        with report.timed("restore"):
            from sctlab_model.preparation import restore

            result = restore(prediction.hu, prepared, recipe, outside=AIR_HU)
            spread = None
            if prediction.spread_hu is not None:
                spread = restore(prediction.spread_hu, prepared, recipe, outside=0)
        with report.timed("write"):
            where, spread_where = output_paths(case, output)
            if spread is not None:
                write_volume(spread, spread_where)
            write_volume(result, where)
        report.output = case.output_name
        return report

    def synthesise(self, case: Case, output: Path, *, progress: Callable[[int, int], None] | None = None) -> CaseReport:
        """The whole story of one case: `load`, then `finish`."""
        return self.finish(self.load(case), output, progress=progress)

    def provenance(self) -> dict[str, Any]:
        """Versions, device and weights, for the report."""
        return {
            "versions": _versions(),
            "device": self.device,
            "bundles": {
                task.value: {
                    "name": bundle.name,
                    "folder": folder.name,
                    "demonstration": bundle.demonstration,
                    "intended_use": bundle.intended_use,
                    "registration": bundle.registration.model_dump(),
                    "weights_sha256": [f.weights.sha256 for g in bundle.groups for f in g.folds],
                    "training_cases": {
                        f"{'+'.join(g.regions)}/{k}": list(f.training_cases)
                        for g in bundle.groups
                        for k, f in enumerate(g.folds)
                    },
                }
                for task, (folder, bundle) in self._bundles.items()
            },
        }


def read_case(case: Case, report: CaseReport) -> tuple[Volume, Volume]:
    """The source and its body mask on one grid; warnings go into the report."""
    source = case.read_source()
    report.warnings += check_source(source, case.task)
    given_mask = case.read_mask()
    if given_mask is None:
        from sctlab_model.body import body_mask

        report.warnings.append("no body mask was given: one was computed from the image")
        return source, body_mask(source, case.task)
    mask, notes = fit_mask(given_mask, source)
    report.warnings += notes + check_mask(mask, source, case.task)
    return source, mask


def _spread_name(case: Case) -> str:
    name = Path(case.output_name)
    return name.name if "images" in name.parts else str(name)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "SimpleITK", "segmentation_models_pytorch"):
        module = sys.modules.get(name)
        if module is not None:
            found[name] = getattr(module, "__version__", "")
    return found
