"""Predict many cases: read ahead, resume, keep the record. One case that fails stops no other."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from sctlab_model.case_output import (
    is_full,
    prepare_output,
    private,
    refuse_replacing_inputs,
)
from sctlab_model.cases import Case, CaseKey, CaseList, LeftOut
from sctlab_model.errors import ExitCode, InputError, ProductError, ResourceError
from sctlab_model.gates import Policy
from sctlab_model.io.atomic import atomic_path
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.paths import split_suffix
from sctlab_model.monitor import Monitor
from sctlab_model.prediction_merging import merge_predictions
from sctlab_model.predictions import (
    PREDICTIONS_FILE,
    CaseResult,
    PredictionRecord,
    read_predictions,
)
from sctlab_model.settings import Settings
from sctlab_model.synthesiser import LoadedCase, Synthesiser

ZIP_FILE = "predictions.zip"
SKIPPED = "was there already: skipped"


class PredictionSettings(Settings):
    """How cases are predicted.

    Args:
        weights: Bundle folder, or a folder of bundles; `/opt/ml/model` or the shipped weights when left out.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        runtime: PyTorch, ONNX Runtime for bundles with exported files, or OpenVINO on the CPU.
        precision: `bf16` with OpenVINO: faster, with errors of tens of HU; never chosen by itself.
        batch: Samples that run together; planned from free memory when left out.
        uncertainty: Also write the ensemble's standard deviation in HU.
        skip_existing: Leave cases alone whose result is there, was made by these weights, from the same image.
        zip: Also pack the results as `sct_<ID>.mha`.
        accept_implausible: Write results that the output gate refuses, and say so in the record.
        lenient: Only results that are worth nothing are refused (the rule in a challenge).
        correct_offset: Subtract this from CBCTs; `auto`: the recognised offset.
    """

    weights: Path | None = None
    device: str = "auto"
    runtime: Literal["torch", "onnx", "openvino"] = "torch"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch: int | None = Field(default=None, ge=1)
    uncertainty: bool = False
    skip_existing: bool = False
    zip: bool = False
    accept_implausible: bool = False
    lenient: bool = False
    correct_offset: float | Literal["auto"] | None = None

    @property
    def policy(self) -> Policy:
        """What becomes of strange inputs and results."""
        return Policy(lenient=self.lenient, accept=self.accept_implausible, correct_offset=self.correct_offset)

    def synthesiser(self) -> Synthesiser:
        """A synthesiser with these settings; nothing is loaded yet."""
        return Synthesiser(
            self.weights, self.device, self.batch, self.uncertainty, self.runtime, self.policy, self.precision
        )


@dataclass
class PredictionResult:
    """What became of the cases.

    Args:
        results: Case key to result, in the order of the cases.
        left_out: What looked like input and was not taken.
        device: Where the network ran.
        record: The folder's whole record, results of other runs included.
    """

    results: dict[CaseKey, CaseResult] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    device: str = ""
    record: PredictionRecord = field(default_factory=PredictionRecord)

    @property
    def failed(self) -> list[CaseKey]:
        """Cases without a result."""
        return [key for key, result in self.results.items() if result.state != "done"]

    @property
    def exit_code(self) -> ExitCode:
        """1 if any case failed or anything was left out unasked."""
        return ExitCode.SOME_CASES_FAILED if self.failed or self.left_out else ExitCode.OK


def predict_cohort(
    cases: CaseList | Sequence[Case],
    out: Path,
    settings: PredictionSettings | None = None,
    monitor: Monitor | None = None,
    *,
    synthesiser: Synthesiser | None = None,
) -> PredictionResult:
    """Predict cases into a folder: `<out>/<REGION>/<ID>.mha`, each with its record, and `predictions.json`.

    A case that some folds were trained on is predicted by the others, and refused where there are none. The record is
    merged with the one that is there, after every case, so that neither a kill nor another process loses a part of it.

    Args:
        cases: From `find_cases`, or any cases.
        out: Folder of the results.
        settings: Weights, device, what to write.
        monitor: Progress and warnings; silent by default.
        synthesiser: One that has its weights loaded already.

    Raises:
        InputError, WeightsError, ResourceError: What can be known to be wrong before the first case (an output folder
            that can't be written to, missing weights, a device that isn't there, too little disk space), or a disk that
            fills up on the way.
    """
    settings, monitor = settings or PredictionSettings(), monitor or Monitor()
    listed = cases if isinstance(cases, CaseList) else CaseList(tuple(cases))
    synthesiser = synthesiser or settings.synthesiser()
    for note in listed.notes:
        monitor.warning(note)
    for item in listed.left_out:
        monitor.warning(f"left out: {item}")
    prepare_output(listed.cases, out, spread=settings.uncertainty, archive=settings.zip)
    record = read_predictions(out) or PredictionRecord()
    planned = _name_outputs(listed.cases, record)
    refuse_replacing_inputs(planned, out)
    if settings.skip_existing:
        _refuse_other_weights(planned, record, synthesiser, out)
    synthesiser.load_all(planned)
    run = _Run(planned, out, settings, synthesiser, monitor, record)
    run.claim()
    result = PredictionResult(left_out=listed.left_out)
    try:
        for key, outcome in run.outcomes():
            result.results[key] = outcome
    finally:
        result.device = synthesiser.device
        result.record = run.release()
    if settings.zip:
        write_zip(result.record, {case.task.folder for case in planned}, out)
    return result


class _Run:
    """One pass over the cases of a folder."""

    def __init__(
        self,
        cases: Sequence[Case],
        out: Path,
        settings: PredictionSettings,
        synthesiser: Synthesiser,
        monitor: Monitor,
        record: PredictionRecord,
    ) -> None:
        self.cases, self.out, self.settings, self.synthesiser = cases, out, settings, synthesiser
        self.monitor, self.record = monitor, record
        self._bundles = {u.id: u for u in (synthesiser.bundle_use(t) for t in {c.task for c in cases})}
        self._claimed: set[str] = set()

    def claim(self) -> None:
        """Enter the cases that will be written, so that another process takes other file names."""
        claims = {
            str(case.key): CaseResult(state="claimed", output=case.output_name)
            for case in self.cases
            if str(case.key) not in self.record.cases
        }
        self._claimed = set(claims)
        merge_predictions(self.out, claims, self._bundles)

    def outcomes(self) -> Iterator[tuple[CaseKey, CaseResult]]:
        """Every case with what became of it. The next one is read and prepared while the network is busy."""
        waiting = (case for case in self.cases if not self._is_there(case))
        with ThreadPoolExecutor(1, "read ahead") as reader:

            def read_next() -> tuple[Case, Future[LoadedCase]] | None:
                case = next(waiting, None)
                return (case, reader.submit(self.synthesiser.load, case)) if case is not None else None

            ahead = read_next()
            for number, case in enumerate(self.cases):
                self.monitor.progress(number, len(self.cases), str(case.key))
                if ahead is None or ahead[0] is not case:
                    yield case.key, self._skipped(case)
                    continue
                loaded = ahead[1]
                wait([loaded])
                ahead = read_next()
                result = private(self._attempt(case, loaded), case)
                self.record = merge_predictions(self.out, {str(case.key): result})
                self._claimed.discard(str(case.key))
                yield case.key, result
            self.monitor.progress(len(self.cases), len(self.cases), "")

    def release(self) -> PredictionRecord:
        """Take back the claims of cases that were not reached."""
        with_claims = read_predictions(self.out) or PredictionRecord()
        open_claims = {k for k in self._claimed if (r := with_claims.cases.get(k)) is not None and r.state == "claimed"}
        if not open_claims:
            return with_claims
        return merge_predictions(self.out, {}, remove=open_claims)

    def _is_there(self, case: Case) -> bool:
        """Whether a result is there that was made by the same weights from the same image."""
        if not self.settings.skip_existing or not (self.out / case.output_name).is_file():
            return False
        known = self.record.cases.get(str(case.key))
        if known is None or known.state != "done":
            return str(case.key) not in self.record.cases
        files = case.input_files[:1]
        expected = known.input_sha256.get("source", "")
        return not expected or len(files) != 1 or not files[0].is_file() or file_sha256(files[0]) == expected

    def _skipped(self, case: Case) -> CaseResult:
        known = self.record.cases.get(str(case.key)) or CaseResult(output=case.output_name)
        return known.model_copy(update={"warnings": [*known.warnings, SKIPPED]})

    def _attempt(self, case: Case, loaded: Future[LoadedCase]) -> CaseResult:
        """One case; its own errors become its result, everybody's are raised."""
        try:
            return self.synthesiser.finish(loaded.result(), self.out)
        except ResourceError as error:
            if is_full(self.out):
                raise  # every other case would fail alike
            return CaseResult(state="failed", error=str(error))
        except ProductError as error:
            return CaseResult(state="failed", error=str(error))
        except Exception as error:
            self.monitor.trace(error)
            return CaseResult(state="failed", error=f"internal error: {type(error).__name__}: {error}")


def write_zip(record: PredictionRecord, tasks: set[str], out: Path) -> Path:
    """Pack the folder's results of some tasks into `predictions.zip`, as validation phases want them.

    Files are called `sct_<ID>.mha`; an id that several cases have lies in folders: `Task1/AB/sct_<ID>.mha`.

    Raises:
        ResourceError: The disk is full.
    """
    done = [(k, r) for k, r in record.results() if k.task.folder in tasks and (out / r.output).is_file()]
    ids = Counter(key.id for key, _ in done)
    path = out / ZIP_FILE
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for key, result in done:
            name = f"sct_{key.id}{split_suffix(result.output)[1]}"
            archive.write(out / result.output, f"{str(key).rpartition('/')[0]}/{name}" if ids[key.id] > 1 else name)
    return path


def _name_outputs(cases: Sequence[Case], record: PredictionRecord) -> list[Case]:
    """The cases with the file names of their results.

    `<REGION>/<ID>`, unless another case (of this run, or in the folder's record) has that name: then the case's key,
    `<Task>/<REGION>/<ID>`. A case that is in the record keeps the name that it has there.
    """
    wanted = Counter(case.output_name for case in cases)
    owners = {result.output: key for key, result in record.cases.items() if result.output}
    named: list[Case] = []
    keys: set[CaseKey] = set()
    for case in cases:
        known = record.cases.get(str(case.key))
        if case.key in keys:
            twice = InputError(str(case.key), found="the same case twice", expected="one folder of that name")
            named.append(replace(case, output_name=f"{case.output_name}.twice", problem=twice))
            continue
        keys.add(case.key)
        suffix = split_suffix(case.output_name)[1]
        if known is not None and known.output and split_suffix(known.output)[1] == suffix:
            named.append(replace(case, output_name=known.output))
        elif wanted[case.output_name] > 1 or owners.get(case.output_name, str(case.key)) != str(case.key):
            region = f"{case.region}/" if case.region else ""
            named.append(replace(case, output_name=f"{case.task.folder}/{region}{case.id}{suffix}"))
        else:
            named.append(case)
    return named


def _refuse_other_weights(cases: Sequence[Case], record: PredictionRecord, synthesiser: Synthesiser, out: Path) -> None:
    """Refuse to count results of other weights as done."""
    for case in cases:
        known = record.cases.get(str(case.key))
        current = synthesiser.bundle_use(case.task)
        if known is None or known.state != "done" or not (out / case.output_name).is_file():
            continue
        if known.bundle and known.bundle != current.id:
            raise InputError(
                out / PREDICTIONS_FILE,
                found=f"results of other weights ({known.bundle}), such as {case.key}",
                expected=f"those of {current.id}",
                advice="choose another --output, or leave --skip-existing out",
            )
