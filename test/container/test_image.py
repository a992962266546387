"""The images as Grand Challenge runs them: exec and invoke, locked down, and the same sCT as predict.sh makes.

`./build.sh` makes the images, `./test.sh` runs all of this.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).parents[2]
CASES = sorted(p for p in (ROOT / "test/cases").glob("*") if (p / "images").is_dir())
EXEC, INVOKE = "sctlab:exec", "sctlab:invoke"
# What the platform's own test kit sets, with a root file system that can't be written.
LOCKED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--pids-limit", "256", "--shm-size", "128m", "--memory", "15g"),
)
LARGEST_DIFFERENCE_HU = 1

pytestmark = pytest.mark.docker


def docker(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a docker command; its output is kept, and shown when it fails."""
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, encoding="utf-8", timeout=1200)
    assert not check or done.returncode == 0, f"docker {arguments[0]} ended with {done.returncode}:\n{done.stderr}"
    return done


def inspect(image: str) -> dict:
    return json.loads(docker("image", "inspect", image).stdout)[0]["Config"]


@pytest.fixture(scope="module", autouse=True)
def _images() -> None:
    if shutil.which("docker") is None or docker("info", check=False).returncode:
        pytest.skip("no container engine answers")
    for image in (EXEC, INVOKE):
        if docker("image", "inspect", image, check=False).returncode:
            pytest.skip(f"there is no image {image}: make it with ./build.sh")


@pytest.fixture(params=[pytest.param((), id="cpu"), pytest.param(("--gpus", "all"), id="gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options that give the container its device."""
    return request.param


@pytest.fixture
def scratch():
    """A fresh volume on /tmp, as the platform gives it."""
    volume = docker("volume", "create").stdout.strip()
    yield ("--volume", f"{volume}:/tmp")
    docker("volume", "rm", "--force", volume)


@pytest.fixture
def output(tmp_path: Path):
    """A folder that any user may write to."""
    folder = tmp_path / "output"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    clear(folder)


def clear(output: Path) -> None:
    """Empty an output folder, as the container's user: what it wrote belongs to it."""
    docker("run", "--rm", "--volume", f"{output}:/output", "--entrypoint", "sh", EXEC, "-c", "rm -rf /output/*")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory):
    """case → the sCT that predict.sh makes of it, each made once."""
    made: dict[tuple[Path, str], sitk.Image] = {}

    def predict(case: Path, device: tuple[str, ...]) -> sitk.Image:
        name = "cuda" if device else "cpu"
        if (case, name) not in made:
            folder = tmp_path_factory.mktemp("predicted")
            command = [ROOT / "predict.sh", "--input", case, "--output", folder, "--device", name]
            subprocess.run(list(map(str, command)), check=True, timeout=1200)
            made[case, name] = sitk.ReadImage(next((folder / "images/synthetic-ct").iterdir()))
        return made[case, name]

    return predict


def source_of(case: Path) -> Path:
    return next(p for task in ("mri", "cbct") for p in (case / "images" / task).glob("*") if p.suffix != ".raw")


def check_output(output: Path, case: Path, expected: sitk.Image) -> None:
    """Exactly the files, the type, the geometry and (within 1 HU) the voxels that the platform and predict.sh expect."""
    source = source_of(case)
    name = f"images/synthetic-ct/{source.name}"
    files = sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file())
    assert files == [name, "results.json"]

    image, source_image = sitk.ReadImage(output / name), sitk.ReadImage(source)
    assert image.GetPixelID() == sitk.sitkInt16
    assert image.GetSize() == source_image.GetSize()
    for geometry in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(image, geometry)(), getattr(source_image, geometry)(), atol=1e-6)
    hu = sitk.GetArrayFromImage(image).astype(int)
    assert hu.max() > hu.min(), "a constant image"
    assert np.abs(hu - sitk.GetArrayFromImage(expected).astype(int)).max() <= LARGEST_DIFFERENCE_HU

    (results,) = json.loads((output / "results.json").read_text())
    assert results["outputs"] == [{"type": "metaio_image", "filename": f"/output/{name}"}]
    assert results["inputs"][0] == {"type": "metaio_image", "filename": f"/input/{source.relative_to(case)}"}
    assert results["inputs"][-1] == {"type": "String", "filename": "/input/region.json"}
    assert results["error_messages"] == []


def run_exec(case: Path, output: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    mounts = ("--volume", f"{case}:/input:ro", "--volume", f"{output}:/output")
    return docker("run", "--rm", "--network", "none", *LOCKED, *mounts, *options, EXEC, check=check)


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.name)
def test_exec_run(case, output, scratch, device, expected):
    run_exec(case, output, *scratch, *device)
    check_output(output, case, expected(case, device))


def test_exec_refuses_a_truncated_image(output, scratch, tmp_path):
    case = shutil.copytree(CASES[0], tmp_path / "input")
    source = source_of(case)
    source.write_bytes(source.read_bytes()[:2000])
    done = run_exec(case, output, *scratch, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert source.name in done.stderr
    assert list(output.iterdir()) == []


def test_unpacked_weights_take_precedence(output, scratch, device, expected, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    subprocess.run([ROOT / "export.sh", "--weights-only", "--output", tmp_path], check=True)
    subprocess.run(["tar", "--extract", "--file", tmp_path / "model.tar.gz", "--directory", model], check=True)
    weights = ("--volume", f"{model}:/opt/ml/model:ro")
    run_exec(CASES[0], output, *scratch, *device, *weights)
    check_output(output, CASES[0], expected(CASES[0], device))

    clear(output)
    for path in model.rglob("fold_*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    done = run_exec(CASES[0], output, *scratch, *weights, check=False)
    assert done.returncode == 3
    assert re.search(r"fold_\d\.safetensors", done.stderr)
    assert list(output.iterdir()) == []


@pytest.fixture
def server(tmp_path, output, scratch, device):
    """An invoke container on a network without a way out. Yields (input folder, request)."""
    inputs = tmp_path / "input"
    inputs.mkdir()
    inputs.chmod(0o755)
    network = docker("network", "create", "--internal", f"sctlab-test-{time.time_ns()}").stdout.strip()
    mounts = ("--volume", f"{inputs}:/input:ro", "--volume", f"{output}:/output")
    started = docker(
        "run",
        "--detach",
        "--network",
        network,
        "--network-alias",
        "server",
        *LOCKED,
        *mounts,
        *scratch,
        *device,
        INVOKE,
    )
    container = started.stdout.strip()

    def request(method: str, path: str) -> int:
        """The HTTP status that another container on the network gets; 0 when nothing listens."""
        code = (
            "import http.client, sys\n"
            "try:\n"
            "    c = http.client.HTTPConnection('server', 4743, timeout=600)\n"
            f"    c.request('{method}', '{path}')\n"
            "    print(c.getresponse().status)\n"
            "except OSError:\n"
            "    print(0)\n"
        )
        client = ("run", "--rm", "--network", network, "--entrypoint", "python", INVOKE)
        return int(docker(*client, "-c", code).stdout)

    yield inputs, request
    logs = docker("logs", container)
    print(logs.stdout + logs.stderr)
    docker("rm", "--force", container)
    docker("network", "rm", network)


def test_invoke_runs(server, output, device, expected):
    inputs, request = server
    deadline = time.monotonic() + 300
    while (status := request("GET", "/health")) != 200:
        assert status in (0, 503)
        assert time.monotonic() < deadline, "not healthy after 300 s"
        time.sleep(0.5)
    # Every case, then the first again: the platform lays fresh inputs and outputs for each invoke.
    for case in [*CASES, CASES[0]]:
        clear(output)
        for path in inputs.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(case, inputs, dirs_exist_ok=True)
        assert request("POST", "/invoke") == 201
        check_output(output, case, expected(case, device))

    (inputs / "region.json").unlink()
    assert request("POST", "/invoke") >= 400
    assert request("GET", "/health") == 200


def test_labels_and_user():
    exec_config, invoke_config = inspect(EXEC), inspect(INVOKE)
    assert "org.grand-challenge.api-method" not in exec_config["Labels"]
    assert invoke_config["Labels"]["org.grand-challenge.api-method"] == "invoke"
    for config in (exec_config, invoke_config):
        assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
        user = config["User"].split(":")[0]
        assert user.isdigit()
        assert int(user) > 0


@pytest.mark.parametrize(
    ("door", "word"),
    [
        (("--entrypoint", "sctlab", EXEC, "train", "--help"), "--pairs"),
        (("--entrypoint", "python", EXEC, "train.py", "--help"), "--pairs"),
        (("--entrypoint", "sctlab", EXEC, "info"), "onnxruntime-gpu"),
        ((EXEC, "--help"), "--serve"),
    ],
    ids=["sctlab train", "train.py", "sctlab info", "process.py"],
)
def test_other_doors(door, word):
    assert word in docker("run", "--rm", "--network", "none", *LOCKED, "--tmpfs", "/tmp", *door).stdout


def test_health_is_checked_only_where_a_server_runs():
    assert "Healthcheck" not in inspect(EXEC)
    assert "/health" in " ".join(inspect(INVOKE)["Healthcheck"]["Test"])


def test_there_is_no_pip():
    code = "import importlib.util; print(importlib.util.find_spec('pip'))"
    assert docker("run", "--rm", "--entrypoint", "python", EXEC, "-c", code).stdout.strip() == "None"


def test_the_bill_of_materials_lists_the_base_too():
    bill = json.loads((ROOT / "export/sctlab.cdx.json").read_text())
    names = {c["name"] for c in bill["components"]}
    assert names >= {"torch", "simpleitk", "pydantic", "libc6"}
    assert "pip" not in names


def test_base_torch_was_kept():
    """The requirements are installed beside the base's torch, never over it."""
    code = "import torch, torchvision; print(torch.__file__, torchvision.__file__)"
    files = docker("run", "--rm", "--tmpfs", "/tmp", "--entrypoint", "python", EXEC, "-c", code).stdout.split()
    assert not any(file.startswith("/opt/venv") for file in files)
