#!/usr/bin/env bash
# The full-size runs on a machine with a GPU, in calls of under ten minutes each.
#
#   benchmarks/device.sh wheels     with a network: fetch what the GPU machine lacks into .wheels/
#   benchmarks/device.sh bench      naive step against ours, eager and compiled
#   benchmarks/device.sh paper      paper and paper_baseline, 100 epochs each
#   benchmarks/device.sh ablation   λ = 0.001 0.005 0.01 0.05 0.1, 30 epochs each
#
# paper and ablation stop after CALL_SECONDS and say so; call them again to go on. Runs live in
# RUNS; with OUT set, results without weights are packed there, and checkpoints so that a fresh
# machine can go on: unpack them into RUNS first.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=${1:?give a stage: wheels, bench, paper or ablation}
RUNS=${RUNS:-runs/device}
CALL_SECONDS=${CALL_SECONDS:-540}
WHEELS=${WHEELS:-.wheels}
PYTHON=${PYTHON:-python3}

if [ "$stage" = wheels ]; then
  # torch stays the machine's own, so nothing is asked to depend on it.
  sed -E '/^(torch|nvidia|triton|setuptools)/d' constraints.txt > "$WHEELS.txt"
  "$PYTHON" -m pip download --quiet --no-deps --dest "$WHEELS" --python-version 3.12 \
    --only-binary=:all: --requirement "$WHEELS.txt" hatchling editables pathspec trove-classifiers
  rm "$WHEELS.txt"
  exit
fi

if ! "$PYTHON" -c 'import pelap' 2> /dev/null; then
  "$PYTHON" -m pip install --quiet --no-deps --no-index --find-links "$WHEELS" \
    accelerate datasets diffusers dill docstring-parser filelock fsspec huggingface-hub \
    lazy-loader multiprocess pyarrow rich safetensors scikit-image tyro typeguard xxhash hatchling \
    editables pathspec trove-classifiers markdown-it-py mdurl pygments imageio tifffile \
    jinja2 markupsafe matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil six
  "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation --editable .
fi
if [ -z "${PELAP_DATA:-}" ] && [ -d shared/data ]; then
  PELAP_DATA=$PWD/shared/data
  export PELAP_DATA
fi

go_on() { # NAME ARGUMENT...: reproduce into RUNS/NAME until it is done or the time is up
  local name=$1 status=0
  shift
  timeout --signal INT "$CALL_SECONDS" \
    "$PYTHON" -m pelap reproduce paper --output "$RUNS/$name" --run.compile "$@" || status=$?
  if [ -n "${OUT:-}" ]; then
    tar -C "$RUNS" --exclude='checkpoints' --exclude='model' -czf "$OUT/$name.tar.gz" "$name"
    tar -C "$RUNS" -czf "$OUT/$name-weights.tar.gz" "$name"
  fi
  case $status in
    0) echo "$name is done: $RUNS/$name/report.html" ;;
    124 | 130) echo "$name is not done yet: call again to go on" ;;
    *) exit "$status" ;;
  esac
}

mkdir -p "$RUNS"
case $stage in
  bench)
    "$PYTHON" -m pelap bench train paper --json | tee "${OUT:-$RUNS}/bench_eager.json"
    "$PYTHON" -m pelap bench train paper --run.compile --json | tee "${OUT:-$RUNS}/bench_compiled.json"
    ;;
  paper) go_on paper ;;
  ablation) go_on ablation --lambdas 0.001 0.005 0.05 0.1 --run.epochs 30 ;;
  *)
    echo "unknown stage $stage: wheels, bench, paper or ablation" >&2
    exit 2
    ;;
esac
