#!/usr/bin/env bash
# Renew the locks: every package with its version and the hashes of its files, for all platforms, without the address
# of any index. Pins that still fit are kept.
#   .ci/lock.sh                              # after a change of requirements*.txt
#   .ci/lock.sh --upgrade                    # take the newest of everything
#   .ci/lock.sh --upgrade-package pillow     # take the newest of one package
#   .ci/lock.sh --check                      # renew nothing; fail when the locks don't fit the requirements
# Options of `uv pip compile` are passed on.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

check=no
if [[ ${1:-} == --check ]]; then
    check=yes
    shift
fi
uv=$(command -v uv || command -v .venv/bin/uv) || {
    echo "error: uv is missing; install it: .venv/bin/python -m pip install uv" >&2
    exit 2
}
folder=locks
if [[ $check == yes ]]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cp locks/*.txt "$folder"
fi

# lock NAME PYTHON OPTION... REQUIREMENTS: locks/NAME.txt for that Python and later ones.
lock() {
    local name=$1 python=$2
    shift 2
    "$uv" pip compile --quiet --universal --python-version "$python" --generate-hashes --no-emit-index-url \
        --no-header --no-annotate --output-file "$folder/$name.txt" "$@"
    if [[ $check == yes ]] && ! cmp -s "locks/$name.txt" "$folder/$name.txt"; then
        echo "error: locks/$name.txt does not fit the requirements; renew it: .ci/lock.sh" >&2
        diff "locks/$name.txt" "$folder/$name.txt" | head -n 20 >&2
        exit 1
    fi
    echo "$name: $(grep -c '==' "$folder/$name.txt") packages"
}

# setuptools installs the product itself; without it pip would fetch one that no hash covers.
lock run 3.11 requirements.txt <(echo "setuptools>=77") "$@"
lock test 3.11 --constraint "$folder/run.txt" requirements.txt requirements-dev.txt requirements-gamma.txt \
    requirements-clinical.txt "$@"

# The dose calculation's own environment: its libraries are older than the product's.
# With the extras' names: pip's hash mode takes `pydantic[email]` of a dependency for another package than `pydantic`.
lock dose 3.11 --no-strip-extras requirements-dose.txt "$@"

# Without what a base with PyTorch brings, or a CPU-only installation takes from PyTorch's own index.
without_torch=(--no-emit-package torch --no-emit-package torchvision --no-emit-package triton)
while read -r package; do
    without_torch+=(--no-emit-package "$package")
done < <(sed -n 's/^\(nvidia-[a-z0-9-]*\|cuda-[a-z]*\)==.*/\1/p' "$folder/run.txt")
same=$(mktemp)
grep '==' "$folder/run.txt" | sed 's/ \\$//; /^onnxruntime-gpu==/d' >"$same"
# 1.26.0 is the last ONNX Runtime for CUDA 12, which the challenge's machines have.
lock image 3.11 "${without_torch[@]}" --constraint "$same" --constraint <(echo "onnxruntime-gpu==1.26.0") \
    requirements.txt <(echo "setuptools>=77") "$@"
lock image-cuda13 3.11 "${without_torch[@]}" --constraint "$folder/run.txt" requirements.txt <(echo "setuptools>=77") "$@"
lock cpu 3.11 "${without_torch[@]}" --constraint "$same" <(sed 's/^onnxruntime-gpu/onnxruntime/' requirements.txt) \
    <(echo "setuptools>=77") "$@"
rm "$same"
