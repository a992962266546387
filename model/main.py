"""Synthetic CT from MR or CBCT: one Grand Challenge case, a folder of cases, one image, or a server.

Without arguments it speaks Grand Challenge's exec API: /input to /output.
"""

# Little is imported here: threads must be limited before NumPy and its libraries are loaded.
from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from sctlab_model.choices import chosen
from sctlab_model.errors import ExitCode, InputError, ProductError, meant
from sctlab_model.io.atomic import file_error
from sctlab_model.io.paths import expand_home
from sctlab_model.processors import start_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sctlab_model.cases import Case, CaseList, Region, Selection, Task
    from sctlab_model.cohort import PredictionResult, PredictionSettings
    from sctlab_model.monitor import Monitor
    from sctlab_model.predictions import CaseResult

EXAMPLES = """examples:
  %(prog)s --input mr.nii.gz --task mri --region AB --output out
  %(prog)s --input cbct.mha --mask body.mha --task cbct --region TH --output out
  %(prog)s --input cohort --output predictions --skip-existing

Results carry the names of their inputs. docs/safety.md lists the exit codes.
"""
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM. As process 1 of a container a program gets no default handler: without its own it can't be stopped."""


def main(arguments: list[str] | None = None) -> int:
    """Run and return the exit code (see `sctlab_model.errors.ExitCode`)."""
    start_process()
    as_program = arguments is None
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that is no UTF-8 must not end the run that names it
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(expand_home(sys.argv[1:] if arguments is None else arguments))
    if not options.debug:
        warnings.filterwarnings("ignore")
    before = _on_sigterm(_terminate)
    try:
        return int(_run(options))
    except ProductError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _ended("interrupted", INTERRUPTED, as_program)
    except Terminated:
        return _ended("terminated", TERMINATED, as_program)
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        if isinstance(error, OSError) and (known := file_error(error)) is not None:
            return _fail(str(known), known.exit_code)
        return _fail(f"internal error: {type(error).__name__}: {error} (--debug shows the trace)", ExitCode.INTERNAL)
    finally:
        _on_sigterm(before)


def _run(options: argparse.Namespace) -> int:
    from sctlab_model.case_output import check_writable
    from sctlab_model.cases import Selection, find_cases, layout_of
    from sctlab_model.io.paths import SUFFIXES, split_suffix

    settings = _settings(options)
    if options.serve:
        from sctlab_model.server import serve

        return serve(
            settings.model_copy(update={"lenient": True}).synthesiser(),
            options.input,
            options.output,
            port=options.port,
            task=options.task,
        )
    layout = layout_of(options.input)
    if options.report is not None:  # found now and not after hours
        check_writable(options.report.parent)
        if options.report.is_dir():
            raise InputError(options.report, found="a folder", expected="a JSON file to write")
    if not layout.several:
        _refuse_for_one(options)
    if split_suffix(options.output)[1] in SUFFIXES and not options.output.is_dir():
        raise InputError(
            "--output",
            found=f"the name of an image, {options.output}",
            expected="a folder",
            advice="the result carries the name of its input",
        )
    selection = Selection(options.task, options.region, options.mask)
    if layout.name == "challenge":
        return _challenge(options, settings.model_copy(update={"lenient": True}), selection)
    cases = find_cases(options.input, selection)
    return _several(cases, options, settings) if layout.several else _one(cases.cases[0], options, settings)


def _challenge(options: argparse.Namespace, settings: PredictionSettings, selection: Selection) -> int:
    """One case in the platform's folders. Nothing but the sCT goes into its folder, so its record is in its header."""
    from sctlab_model.cases import challenge_results, find_cases
    from sctlab_model.io.atomic import write_json

    cases = find_cases(options.input, selection)
    (case,) = cases.cases
    for item in (*cases.notes, *cases.left_out):
        _warn(f"{item}")
    _predict_one(case, options, settings, record=False)
    results = challenge_results(case, options.output / case.output_name, options.input / "region.json")
    write_json(options.output / "results.json", results)
    return ExitCode.OK


def _one(case: Case, options: argparse.Namespace, settings: PredictionSettings) -> int:
    _predict_one(case, options, settings, record=True)
    return ExitCode.OK


def _predict_one(case: Case, options: argparse.Namespace, settings: PredictionSettings, *, record: bool) -> None:
    from sctlab_model.case_output import prepare_output, refuse_replacing_inputs

    refuse_replacing_inputs([case], options.output)
    prepare_output([case], options.output, spread=settings.uncertainty)
    synthesiser = settings.synthesiser()
    result = synthesiser.synthesise(case, options.output, record=record)
    use = synthesiser.bundle_use(case.task)
    for warning in result.warnings:
        _warn(f"{case.id}: {warning}")
    for note in result.notes:
        print(f"note: {note}")
    for note in _notes(demonstration=use.demonstration, results=[result]):
        print(note)
    print(
        f"{case.id}: {result.slices} slice{'' if result.slices == 1 else 's'} in {_total(result):.1f} s on {synthesiser.device} -> {result.output}",
        flush=True,
    )
    _write_report(options.report, {str(case.key): result}, {use.id: use})


def _several(cases: CaseList, options: argparse.Namespace, settings: PredictionSettings) -> int:
    """Every case, whatever happens to the others; a table and an exit code at the end."""
    from sctlab_model.cohort import predict_cohort
    from sctlab_model.monitor import ConsoleMonitor

    with ConsoleMonitor("synthetic CT", debug=options.debug) as monitor:
        result = predict_cohort(cases, options.output, settings, monitor)
    report_cohort(result, monitor)
    if options.report is not None:
        chosen = {str(key): r for key, r in result.results.items()}
        _write_report(options.report, chosen, result.record.bundles)
    return result.exit_code


def report_cohort(result: PredictionResult, monitor: Monitor) -> None:
    """Say what became of the cases: one row per case, what failed on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "seconds", "result", title=f"device: {result.device or 'none'}")
    for key, outcome in result.results.items():
        text = "failed" if outcome.state != "done" else "; ".join(outcome.warnings) or "ok"
        table.add_row(str(key), f"{_total(outcome):.1f}", text)
    Console(file=sys.stdout, markup=False, highlight=False).print(table)
    demonstration = {r.bundle for r in result.results.values()} & {
        name for name, use in result.record.bundles.items() if use.demonstration
    }
    for note in _notes(demonstration=bool(demonstration), results=result.results.values()):
        monitor.info(note)
    for key, outcome in result.results.items():
        if outcome.state != "done":
            monitor.warning(f"{key}: {outcome.error}")
    count, failed = len(result.results), len(result.failed)
    text = f"{count - failed} of {count} cases done" + (f", {failed} failed" if failed else "")
    if result.left_out:
        text += f", {len(result.left_out)} left out"
    (monitor.warning if result.exit_code else monitor.info)(text)


def _notes(*, demonstration: bool, results: Iterable[CaseResult]) -> Iterator[str]:
    """What is worth knowing about the weights and is no warning."""
    if demonstration:
        yield "note: demonstration weights, not for clinical use"
    if any(result.state == "done" and result.limits == "absolute" for result in results):
        yield "note: the weights bring no validation statistics: the output gate applied its absolute limits only"


def _settings(options: argparse.Namespace) -> PredictionSettings:
    from sctlab_model.cohort import PredictionSettings

    return PredictionSettings(
        weights=options.weights,
        device=options.device,
        runtime=options.runtime,
        precision=options.precision,
        batch=options.batch,
        uncertainty=options.uncertainty,
        skip_existing=options.skip_existing,
        zip=options.zip,
        accept_implausible=options.accept_implausible,
        correct_offset=options.correct_offset,
    )


def _refuse_for_one(options: argparse.Namespace) -> None:
    for name in ("zip", "skip_existing"):
        if getattr(options, name):
            raise InputError(
                f"--{name.replace('_', '-')}",
                found=f"given for one case, {options.input}",
                expected="a folder of cases",
            )


def _write_report(path: Path | None, cases: dict[str, CaseResult], bundles: dict) -> None:
    from sctlab_model.predictions import PredictionRecord

    if path is not None:
        used = {result.bundle for result in cases.values()}
        PredictionRecord(cases=cases, bundles={k: v for k, v in bundles.items() if k in used}).write(path)


def _total(result: CaseResult) -> float:
    return sum(seconds for step, seconds in result.seconds.items() if step != "network")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return int(code)


def _ended(word: str, code: int, as_program: bool) -> int:
    """End after a signal. Everything is written and closed by now; only reading threads are left, and nobody waits
    for them."""
    _fail(word, code)
    if as_program:
        sys.stdout.flush()
        os._exit(code)
    return code


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _on_sigterm(handler: Any) -> Any:
    """Install a handler and return the one before; without effect outside the main thread."""
    try:
        return signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)
    except ValueError:
        return None


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, like every other refusal, with the option that was probably meant."""

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"unrecognized arguments: (\S+)", message):
            word = match[1].split("=")[0]
            advice = (
                meant(word, self._option_string_actions)
                if word.startswith("-")
                else "expected options only; is it meant for --input?"
            )
            message += f"; {advice}" if advice else ""
        message = message.removeprefix("argument ")
        self.exit(int(ExitCode.BAD_INPUT), f"error: {message} ({self.prog} --help lists the options)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        os.path.basename(sys.argv[0]) or "process.py",  # noqa: PTH119 (a word, not a path)
        description=__doc__,
        epilog=EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", type=Path, default=Path("/input"), help="case, cohort, flat folder or image [/input]")
    add("--output", type=Path, default=Path("/output"), help="folder of the results [/output]")
    add(
        "--task",
        type=_task,
        metavar="{mri,cbct}",
        help="what the source is; needed for flat folders and single images",
    )
    add(
        "--region",
        type=_region,
        help="AB, HN or TH: abdomen, head and neck, thorax; with it the anatomy is checked; needed by bundles with region groups",
    )
    add("--mask", type=Path, help="body mask of a single image; computed when left out")
    add(
        "--weights",
        type=Path,
        help="bundle folder, or a name of `sctlab weights list` [/opt/ml/model if not empty, else weights/ by task]",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N [auto]")
    add(
        "--runtime",
        type=_runtime,
        metavar="{torch,onnx,openvino}",
        default="torch",
        help="PyTorch, ONNX Runtime for exported bundles, or OpenVINO on the CPU (sctlab[openvino])",
    )
    add(
        "--precision",
        type=_precision,
        metavar="{fp32,bf16}",
        default="fp32",
        help="bf16 with openvino: faster, off by tens of HU",
    )
    add("--batch", type=_positive, help="samples that run together [planned from free memory]")
    add("--uncertainty", action="store_true", help="also write the ensemble's standard deviation in HU")
    add("--report", type=Path, help="write versions, device, weights, timings and warnings to this JSON file")
    add("--zip", action="store_true", help="also pack the results of a folder as sct_<ID>.mha in predictions.zip")
    add("--skip-existing", action="store_true", help="leave cases alone whose result is there")
    add(
        "--correct-offset",
        type=_offset,
        nargs="?",
        const="auto",
        metavar="HU",
        help="subtract this number from a CBCT; without a number, the offset that is recognised",
    )
    add("--accept-implausible", action="store_true", help="write results that the output gate refuses, and record it")
    add("--serve", action="store_true", help="Grand Challenge's invoke API")
    add("--port", type=int, default=4743, help="port of --serve [4743]")
    add("--debug", action="store_true", help="show the trace of an internal error")
    return parser


def _task(text: str) -> Task:
    from sctlab_model.cases import Task

    return _parsed(lambda: Task.parse(text, "--task"))


def _region(text: str) -> Region:
    from sctlab_model.cases import Region

    return _parsed(lambda: Region.parse(text, "--region"))


def _runtime(text: str) -> str:
    return _parsed(lambda: chosen(text, ("torch", "onnx", "openvino"), "--runtime"))


def _precision(text: str) -> str:
    return _parsed(lambda: chosen(text, ("fp32", "bf16"), "--precision"))


def _parsed(read: Callable[[], Any]) -> Any:
    """What an option says, or argparse's error with our words."""
    try:
        return read()
    except InputError as error:
        advice = f"; {error.advice}" if error.advice else ""
        raise argparse.ArgumentTypeError(f"{error.found}; expected {error.expected}{advice}") from error


def _offset(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from error


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
