#!/usr/bin/env bash
# Synthetic CT without Docker. The first use makes the environment .venv, then process.py runs.
#   ./predict.sh                               a sample MR, into predictions/sample/
#   ./predict.sh --input DIR --output DIR      your cases; ./predict.sh --help lists the options
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/.ci/environment.sh"

make_environment run
if (($# == 0)); then
    sample=$root/test/cases/mri output=$root/predictions/sample
    echo "No arguments: predicting the sample case $sample into $output"
    set -- --input "$sample" --output "$output"
fi
exec "$root/.venv/bin/python" "$root/process.py" "$@"
