#!/usr/bin/env bash
# Validate code and images: environment, ruff, shellcheck, pytest; then, with a container engine, both images are built
# and run as Grand Challenge runs them, and their results compared with those of predict.sh.
#   ./test.sh [--no-docker] [--gpu] [--quick] [-- OPTIONS OF docker build ...]
#     --no-docker   leave the images out
#     --gpu         also the tests that need a GPU, in the images with --gpus all
#     --quick       leave out the tests marked heavy
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/.ci/environment.sh"

with_docker=yes markers="" build_options=() leave_out_gpu=" and not gpu"
while (($#)); do
    case $1 in
        --no-docker) with_docker=no ;;
        --gpu) leave_out_gpu="" ;;
        --quick) markers=" and not heavy" ;;
        -h | --help)
            sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
            exit
            ;;
        --)
            shift
            build_options=("$@")
            break
            ;;
        *)
            echo "error: unknown option $1 (--help lists them)" >&2
            exit 2
            ;;
    esac
    shift
done
markers+=$leave_out_gpu
cd "$root"

make_environment test
python=.venv/bin/python
echo "== style"
"$python" -m ruff check .
"$python" -m ruff format --check .
.venv/bin/shellcheck --external-sources ./*.sh .ci/*.sh .ci/run
echo "== types"
"$python" -m mypy
echo "== tests of the code"
# A worker a core; a file stays with one worker, for its fixtures.
"$python" -m pytest -n auto --dist loadfile --timeout 1200 -m "not docker$markers"

if [[ $with_docker == no ]]; then exit; fi
if ! docker info >/dev/null 2>&1; then
    echo "No container engine answers (docker info fails): the images were not tested."
    exit
fi
echo "== images"
./build.sh "${build_options[@]}"
echo "== tests of the images"
"$python" -m pytest -m "docker$markers" test/container
