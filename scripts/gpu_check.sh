#!/usr/bin/env bash
# Checks the kernels on a CUDA GPU: their tests, slow ones too, then the benchmark beside the other implementations found.
#
# Runs offline from a bare checkout. Needs Python 3.11 or newer with torch, triton, numpy and pytest. Further wheels
# (pytest, mamba-ssm, causal-conv1d, mambapy, matplotlib, ...) are taken from a folder wheels/ in the checkout, if it
# is there: they go to a temporary folder, not into the Python that is used, and without what they depend on, so that
# wheels/ must hold that too where it is missing.
#
#   OUT=FOLDER     where the log, the table and the plot go (results/ if not given)
#   PYTHON=FILE    the Python to use (python3 if not given)
#   scripts/gpu_check.sh --quick    passes its options on to the benchmark
#
# Exit code: 0 if all tests passed and the benchmark ran, 1 if not, 2 if something needed is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Left over in the environment, they would test the interpreter or another backend.
unset TRITON_INTERPRET MAMBARIUM_BACKEND
python=${PYTHON:-python3}
out=${OUT:-results}

stop() {
    echo "gpu_check: $1" >&2
    exit 2
}

command -v "$python" >/dev/null || stop "no $python: name a Python with torch in PYTHON"

shopt -s nullglob
wheels=(wheels/*.whl)
if ((${#wheels[@]})); then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "${wheels[@]}"
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi

for module in torch triton numpy pytest; do
    "$python" -c "import $module" 2>/dev/null ||
        stop "$python can't import $module: install it, or put its wheel into wheels/"
done
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    stop "torch finds no CUDA GPU on this machine"

mkdir -p "$out"
log=$out/gpu_check_$(date -u +%Y-%m-%d_%H%M%S).log
check() {
    local status=0
    git log -1 --format='commit %h %s' 2>/dev/null || true
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader || true
    "$python" -m pytest -m cuda tests/kernels || status=1
    "$python" -m mambarium.kernels.benchmark --device cuda --out "$out" "$@" || status=1
    ((status)) && echo "gpu_check: FAILED" || echo "gpu_check: passed"
    return "$status"
}
check "$@" 2>&1 | tee "$log"
