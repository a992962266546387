"""Grand Challenge's invoke API: health and invoke on one port, weights loaded once, one invoke at a time."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from sctlab_model.bundle import CHALLENGE_WEIGHTS, SHIPPED_WEIGHTS, find_bundles, read_bundle
from sctlab_model.cases import Case, Task, challenge_results, read_challenge
from sctlab_model.errors import ExitCode, ProductError, WeightsError
from sctlab_model.io.atomic import write_json
from sctlab_model.synthesiser import Synthesiser

SERVER_FAULTS = (ExitCode.BAD_WEIGHTS, ExitCode.INTERNAL, ExitCode.RESOURCES)
GRACE_S = 8  # containers are killed 10 s after SIGTERM


Result = TypeVar("Result")


class InferenceThread:
    """One thread that loads, warms up and predicts, whichever thread a request arrives in: what CUDA's libraries have tuned
    is kept for each thread. A daemon, so that a server that was stopped doesn't wait for a case."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work, name="inference", daemon=True).start()

    def run(self, job: Callable[[], Result]) -> Result:
        """Do it there, wait for it, and return or raise what it does."""
        future: Future[Result] = Future()

        def do() -> None:
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(do)
        return future.result()

    def _work(self) -> None:
        while True:
            self._jobs.get()()


def make_app(
    synthesiser: Synthesiser,
    input_folder: Path,
    output_folder: Path,
    ready: threading.Event,
    thread: InferenceThread | None = None,
) -> FastAPI:
    """The application: `GET /health` (503 until the weights are loaded), `POST /invoke` (201 when done)."""
    thread = thread or InferenceThread()
    app = FastAPI(title="synthetic CT", docs_url=None, redoc_url=None, openapi_url=None)
    busy = threading.Lock()

    @app.get("/health")
    def health() -> JSONResponse:
        return JSONResponse({"ready": ready.is_set()}, 200 if ready.is_set() else 503)

    @app.post("/invoke")
    def invoke() -> JSONResponse:
        if not ready.is_set():
            return JSONResponse({"error": "the weights are still loading"}, 503)
        if not busy.acquire(blocking=False):
            return JSONResponse({"error": "another invoke is running"}, 409)
        try:
            case = read_challenge(input_folder)
            result = thread.run(lambda: synthesiser.synthesise(case, output_folder, record=False))
            results = challenge_results(case, output_folder / case.output_name, input_folder / "region.json")
            write_json(output_folder / "results.json", results)
            for warning in result.warnings:
                print(f"warning: {case.id}: {warning}", file=sys.stderr, flush=True)
            answer = {"output": result.output, "warnings": result.warnings, "limits": result.limits}
            return JSONResponse(answer, 201)
        except ProductError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return JSONResponse({"error": str(error)}, 500 if error.exit_code in SERVER_FAULTS else 422)
        except Exception as error:
            traceback.print_exc()  # one bad case must not end the server
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 500)
        finally:
            busy.release()

    return app


def load_all(synthesiser: Synthesiser, task: Task | None = None) -> None:
    """Load every group of the bundle of `task`, or of every bundle that is there, and run each bundle's network once.

    Raises:
        WeightsError: Nothing to load, or damaged weights.
    """
    root = synthesiser.weights
    if root is None:
        challenge = CHALLENGE_WEIGHTS.is_dir() and any(CHALLENGE_WEIGHTS.iterdir())
        root = CHALLENGE_WEIGHTS if challenge else SHIPPED_WEIGHTS
    bundles = [read_bundle(folder) for folder in find_bundles(root)]
    wanted = [b for b in bundles if task in (None, b.task)]
    if not wanted:
        raise WeightsError(root, found=f"no bundle{f' for task {task}' if task else ''}", expected="at least one")
    from sctlab_model.ensemble import warm_up

    for bundle in wanted:
        for group in bundle.groups:
            folds = synthesiser.start_loading(Case("start", bundle.task, Path(), region=group.regions[0])).result()
        warm_up(folds[0], bundle.recipe)


def serve(synthesiser: Synthesiser, input_folder: Path, output_folder: Path, *, port: int, task: Task | None) -> int:
    """Serve until stopped. The port answers at once; weights load in the background."""
    import uvicorn

    ready = threading.Event()
    failure: list[Exception] = []
    thread = InferenceThread()
    app = make_app(synthesiser, input_folder, output_folder, ready, thread)
    server = uvicorn.Server(
        uvicorn.Config(app, host="0.0.0.0", port=port, log_level="warning", timeout_graceful_shutdown=GRACE_S)
    )

    def load() -> None:
        try:
            thread.run(lambda: load_all(synthesiser, task))
            print(f"ready on port {port}, {synthesiser.device}", flush=True)
            ready.set()
        except Exception as error:  # or the server would answer 503 until the platform gives up
            failure.append(error)
            server.should_exit = True

    threading.Thread(target=load, daemon=True).start()
    server.run()
    if failure:
        raise failure[0]
    return ExitCode.OK
