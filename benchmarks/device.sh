#!/usr/bin/env bash
# The full-size runs on a machine with a GPU, in calls of under ten minutes each.
#
#   benchmarks/device.sh wheels     with a network: fetch what the GPU machine lacks into WHEELS
#   benchmarks/device.sh bench      naive step against ours, eager and compiled
#   benchmarks/device.sh paper      paper and paper_baseline, 100 epochs each
#   benchmarks/device.sh ablation   λ = 0.001 0.005 0.01 0.05 0.1, 30 epochs each
#
# Settings may follow the stage (--data.path DIR). paper and ablation stop after CALL_SECONDS and
# say so; the same call goes on. Runs live in RUNS; where OUT is set, each call packs there the
# results, and the whole run folders so that a fresh machine can go on: unpack those into RUNS first.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=${1:?give a stage: wheels, bench, paper or ablation}
shift
RUNS=${RUNS:-runs/device}
CALL_SECONDS=${CALL_SECONDS:-540}
WHEELS=${WHEELS:-.wheels}
PYTHON=${PYTHON:-python3}
# torch and what it brings are the GPU machine's own.
MISSING=(accelerate contourpy cycler datasets diffusers dill docstring-parser fonttools httpx2
  huggingface-hub imageio kiwisolver lazy-loader markdown-it-py matplotlib mdurl multiprocess pandas
  pyarrow pygments pyparsing python-dateutil rich safetensors scikit-image scipy tifffile typeguard
  tyro tzdata xxhash)

fetch_wheels() {
  "$PYTHON" -m pip download --quiet --no-deps --dest "$WHEELS" --constraint constraints.txt \
    --python-version 3.12 --only-binary=:all: "${MISSING[@]}"
  "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$WHEELS" .
}

install() {
  "$PYTHON" -c 'import pelap' 2> /dev/null ||
    "$PYTHON" -m pip install --quiet --no-deps --no-index "$WHEELS"/*.whl
}

pack() { # NAME
  [ -n "${OUT:-}" ] || return 0
  tar -C "$RUNS" --exclude=checkpoints --exclude=model -czf "$OUT/$1-results.tar.gz" "$1"
  tar -C "$RUNS" -czf "$OUT/$1-runs.tar.gz" "$1"
}

go_on() { # NAME ARGUMENT...: reproduce into RUNS/NAME until it is done or the time is up
  local name=$1 status=0
  shift
  timeout --signal INT --kill-after 20 "$CALL_SECONDS" \
    "$PYTHON" -m pelap reproduce paper --output "$RUNS/$name" "$@" || status=$?
  case $status in
    0) echo "$name is done: $RUNS/$name/report.html" ;;
    124 | 130) echo "$name is not done yet: the same call goes on" ;;
    *) exit "$status" ;;
  esac
  pack "$name"
}

case $stage in
  wheels) fetch_wheels ;;
  bench)
    install
    mkdir -p "$RUNS/bench"
    "$PYTHON" -m pelap bench train paper --json "$@" > "$RUNS/bench/eager.json"
    "$PYTHON" -m pelap bench train paper --json --run.compile "$@" > "$RUNS/bench/compiled.json"
    pack bench
    ;;
  paper)
    install
    go_on paper "$@"
    ;;
  ablation)
    install
    go_on ablation --lambdas 0.001 0.005 0.05 0.1 --run.epochs 30 "$@"
    ;;
  *)
    echo "unknown stage $stage: wheels, bench, paper or ablation" >&2
    exit 2
    ;;
esac
