# shellcheck shell=bash
# Sourced by predict.sh and test.sh: the Python environment .venv, made on first use and when requirements change.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Print the first Python of 3.11 or newer; $PYTHON decides where it is set. Candidates are run, not only looked up:
# version managers leave commands on the PATH that end in an error.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer was found (tried ${PYTHON:+$PYTHON, }python3.12, python3.11, python3)." >&2
    echo "       Install one, or name it: PYTHON=/path/to/python3 $0" >&2
    return 1
}

# Show the newest line of stdin and the seconds so far: in place on a terminal, every 20 s elsewhere.
show_progress() {
    local line="" new status shown=0
    while true; do
        status=0
        IFS= read -r -t 1 new || status=$?
        if ((status == 0)); then line=$new; elif ((status < 128)); then break; fi
        if [[ -t 1 ]]; then
            printf '\r\033[K%4d s  %s' "$SECONDS" "${line:0:${COLUMNS:-80}-10}"
        elif ((SECONDS - shown >= 20)); then
            printf '%4d s  %s\n' "$SECONDS" "${line:0:110}"
            shown=$SECONDS
        fi
    done
    if [[ -t 1 ]]; then printf '\r\033[K'; fi
}

# Install with the virtual environment's pip, showing progress; the log keeps everything.
pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1 |
        tee -a "$venv/install.log" | show_progress
}

# What locks/$1.txt lists, every file checked by its hash. A file with another hash ends it; where the index has no such
# file (another platform, a mirror with other versions), the version ranges of requirements*.txt decide, and that is said.
install_locked() {
    local log=$venv/install.log
    if pip_install --require-hashes --requirement "$root/locks/$1.txt"; then
        pip_install --no-deps --no-build-isolation --editable "$root"
    elif grep -q 'DO NOT MATCH THE HASHES' "$log" || ! grep -qE 'No matching distribution|ResolutionImpossible' "$log"; then
        return 1
    else
        echo "warning: not every package of locks/$1.txt is to be had here: installing by requirements*.txt, without hashes." >&2
        pip_install --editable "$2"
    fi
}

# make_environment run|test: packages to run the product, or also those that test it. With TORCH_INDEX_URL, the address
# of PyTorch's index of CPU builds, PyTorch comes from there and nothing of CUDA is fetched (1 GB instead of 9).
make_environment() {
    local venv=$root/.venv purpose=$1 target=$root key python size="3 GB to fetch, 9 GB of disk" ok=yes
    [[ $purpose == run ]] || target="${root}[dev]"
    # The folder is part of the key: the package is installed in place, so a moved checkout is installed again.
    key="$(cat "$root/pyproject.toml" "$root/setup.py" "$root"/requirements*.txt "$root"/locks/*.txt | cksum) $root ${TORCH_INDEX_URL:-}"
    if [[ $(cat "$venv/.made-for-$purpose" 2>/dev/null) == "$key" ]]; then return; fi

    SECONDS=0
    if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        python=$(find_python)
        [[ -z ${TORCH_INDEX_URL:-} ]] || size="1 GB to fetch, 3 GB of disk"
        echo "Making the environment in $venv with $("$python" --version): about 3 minutes, $size."
        rm -rf "$venv"
        "$python" -m venv "$venv"
    else
        echo "Bringing the environment in $venv up to date."
    fi
    : >"$venv/install.log"
    if [[ -n ${TORCH_INDEX_URL:-} ]]; then
        pip_install --index-url "$TORCH_INDEX_URL" torch torchvision &&
            pip_install --require-hashes --requirement "$root/locks/cpu.txt" &&
            pip_install --no-deps --no-build-isolation --editable "$root" || ok=no
        [[ $purpose == run || $ok == no ]] || pip_install --requirement "$root/requirements-dev.txt" || ok=no
    else
        install_locked "$purpose" "$target" || ok=no
    fi
    if [[ $ok == no ]]; then
        echo "error: the packages could not be installed; the end of $venv/install.log:" >&2
        tail -n 15 "$venv/install.log" >&2
        return 1
    fi
    echo "$key" >"$venv/.made-for-run"
    [[ $purpose == run ]] || echo "$key" >"$venv/.made-for-test"
    echo "The environment is ready after $SECONDS s."
}
