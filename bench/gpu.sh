#!/usr/bin/env bash
# Run everything that a GPU machine should run for this repository:
#
#     bench/gpu.sh OUT [STAGE ...]        stages: facts build tests sanitizer kernels step train; default: all, in this order
#
# The machine needs Python with PyTorch, Triton, NumPy and pytest; for the stage kernels pytest-benchmark, for csrc nvcc.
# With hypothesis more tests run; with pytest-xdist they run in parallel (each compiles its kernels, which takes most of the
# time); with transformers and tokenizers the step has a peer. The script uses no network.
#   WHEELS=folder   wheels of packages that the machine lacks; they are unpacked into a temporary folder on PYTHONPATH
#   COMMIT=id       the commit, if this copy of the repository has no .git
#   DRY=1           tiny sizes on the CPU, to check the script; the default on a machine without a GPU
#   LIMIT=seconds   stop a stage after this time, and kill it 10 s later (default 465, for machines that allow 480)
#   KERNELS="..."   the operations that the stage kernels measures, in this order (default: all, the slowest last)
#
# OUT gets at most 8 files: summary.json (exit code and seconds of each stage), logs.tar.gz, and the result files of the stages:
# facts.json, kernels.json, step-base.json, step-mini.json, ablation.json, run-generated.json. They are written after each stage,
# so a script that is stopped leaves what it has measured. A stage that fails does not stop the others.
# The script changes no setting of the GPU.
set -uo pipefail

[ $# -ge 1 ] || { echo "usage: bench/gpu.sh OUT [STAGE ...]" >&2; exit 2; }
mkdir -p "$1" || exit 2
OUT=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.." || exit 2

ALL="facts build tests sanitizer kernels step train"
STAGES=${*:-$ALL}
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-465}
KERNELS=${KERNELS:-layer_norm masking gelu embedding linear_gelu mlm_loss attention}
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
mkdir -p "$SCRATCH/logs"

export PYTHONPATH="$PWD/engine:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # cuBLAS reads it once; the tests' deterministic algorithms need it
if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$SCRATCH/site" "$WHEELS"/*.whl || exit 2
  export PYTHONPATH="$PYTHONPATH:$SCRATCH/site"
fi
if [ -z "${DRY:-}" ]; then
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || DRY=1
fi
DRY=${DRY:-}
# a dry run must look the same on every machine
[ -z "$DRY" ] || export CUDA_VISIBLE_DEVICES=

# run pytest until $SECONDS reaches the first argument, then interrupt it, and kill it 10 s later; --foreground keeps it in the
# process group of the stage, which is killed as a whole
pytest_until() {
  local left=$(($1 - SECONDS))
  shift
  timeout --foreground --signal=INT --kill-after=10 $((left > 1 ? left : 1)) "$PYTHON" -m pytest -q -p no:cacheprovider "$@"
}

facts() {
  "$PYTHON" -c "import json, sys; sys.path.insert(0, '.'); from bench import machine
json.dump({'machine_info': machine.facts(), 'commit_info': machine.commit()}, open('$OUT/facts.json', 'w'), indent=1)"
}

build() {
  ls csrc/*/*.cu >/dev/null 2>&1 || { echo "csrc holds no kernels: nothing to build"; return 0; }
  command -v nvcc >/dev/null || { echo "nvcc is not installed: csrc is not built"; return 0; }
  "$PYTHON" setup.py build_ext --inplace
}

# tests that need a GPU come first; tests/offline and the compiler's tests need none and are left out.
# When it is interrupted, pytest reports what failed until then
tests() {
  local code=0 dry="" side_by_side="" ends=$((SECONDS + ${LIMIT%.*} - 15)) left
  [ -z "$DRY" ] || dry="--collect-only"
  "$PYTHON" -c 'import xdist' 2>/dev/null && side_by_side="-n $(($(nproc) > 14 ? 12 : ($(nproc) + 1) / 2)) --dist worksteal"
  # shellcheck disable=SC2086
  pytest_until $ends -vv -m gpu tests/kernels tests/engine/test_gpu.py --junitxml "$SCRATCH/logs/tests-gpu.xml" \
    --durations 25 $dry $side_by_side || code=1
  echo "tests of the GPU: exit code $code"
  left=$((ends - SECONDS))
  [ $left -ge 45 ] || { echo "tests of the CPU: no time is left for them"; return $code; }
  # shellcheck disable=SC2086
  pytest_until $ends -m "not gpu and not slow" tests/kernels tests/test_bench_side_by_side.py \
    --ignore-glob 'tests/kernels/*aot.py' \
    --junitxml "$SCRATCH/logs/tests-cpu.xml" $dry $side_by_side || code=1
  return $code
}

sanitizer() {
  ls kernels/unmask_kernels/_C*.so >/dev/null 2>&1 || { echo "the extension is not built: nothing to sanitize"; return 0; }
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed"; return 0; }
  compute-sanitizer --tool memcheck --error-exitcode 1 "$PYTHON" -m pytest -q -p no:cacheprovider tests/kernels -k "cuda"
}

# one pytest for each file, so a file that fails or is killed loses no results of others; each gets an equal part of the time
# that is left, less 10 s to end. When it is interrupted, pytest writes what it has
kernels() {
  local rounds="" code=0 left operation ends=$((SECONDS + ${LIMIT%.*} - 15))
  [ -z "$DRY" ] || rounds="--rounds 1"
  left=$(echo "$KERNELS" | wc -w)
  for operation in $KERNELS; do
    # shellcheck disable=SC2086
    pytest_until $((SECONDS + (ends - SECONDS) / left - 10)) "bench/kernels/bench_$operation.py" $rounds \
      --benchmark-json "$SCRATCH/kernels-$operation.json" || code=1
    left=$((left - 1))
    merge_kernels || code=1
  done
  return $code
}

merge_kernels() {
  "$PYTHON" - "$OUT/kernels.json" "$SCRATCH"/kernels-*.json <<'END'
import json, pathlib, sys
# a bench that failed completely leaves an empty file, or none
paths = [path for path in map(pathlib.Path, sys.argv[2:]) if path.exists()]
parts = [json.loads(text) for text in (path.read_text() for path in paths) if text.strip()]
if parts:
    merged = {**parts[0], "benchmarks": [row for part in parts for row in part["benchmarks"]]}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(merged))
END
}

step() {
  local code=0 size
  if [ -n "$DRY" ]; then
    "$PYTHON" bench/engine/bench_step.py --size nano --rounds 1 --dropout 0 --out "$OUT/step-mini.json"
    "$PYTHON" bench/engine/bench_ablation.py --size nano --rounds 1 --out "$OUT/ablation.json"
    return
  fi
  # enough tokens that the device never waits for the host; in fp32 the peer would not fit into 80 GB
  size="--size base --tokens 32768 --rounds 20 --backend triton --profile"
  # shellcheck disable=SC2086
  "$PYTHON" bench/engine/bench_step.py $size --no-float32 --out "$OUT/step-base.json" || {
    code=1
    echo "with the peer the step failed; now ours alone"
    "$PYTHON" bench/engine/bench_step.py $size --no-peer --out "$OUT/step-base.json"
  }
  "$PYTHON" bench/engine/bench_ablation.py --size base --tokens 32768 --rounds 20 --dropout 0 0.1 --backend triton \
    --out "$OUT/ablation.json" || code=1
  "$PYTHON" bench/engine/bench_step.py --size mini --tokens 65536 --rounds 20 --backend triton --no-float32 \
    --out "$OUT/step-mini.json" || code=1
  return $code
}

train() {
  local settings="--steps 300 --layers 4 --hidden 256 --backend triton"
  [ -z "$DRY" ] || settings="--steps 20 --tokens 512 --layers 1 --hidden 64 --vocab 64 --dropout 0 --learning-rate 0.01"
  # shellcheck disable=SC2086
  "$PYTHON" bench/engine/bench_generated.py $settings --out "$OUT/run-generated.json"
}

for stage in $STAGES; do
  case " $ALL " in *" $stage "*) ;; *) echo "gpu.sh: no stage '$stage'; there are: $ALL" >&2; exit 2 ;; esac
done
for operation in $KERNELS; do
  [ -f "bench/kernels/bench_$operation.py" ] || { echo "gpu.sh: bench/kernels has no bench_$operation.py" >&2; exit 2; }
done

export -f pytest_until merge_kernels $ALL
export OUT PYTHON DRY SCRATCH LIMIT KERNELS
worst=0
rows=""
for stage in $STAGES; do
  began=$SECONDS
  timeout --kill-after=10 "$LIMIT" bash -c "$stage" >"$SCRATCH/logs/$stage.log" 2>&1
  code=$?
  took=$((SECONDS - began))
  rows="$rows${rows:+, }\"$stage\": {\"code\": $code, \"seconds\": $took}"
  [ $code -eq 0 ] || worst=1
  echo "$stage: exit code $code, $took s"
  tail -n "$([ $code -eq 0 ] && echo 3 || echo 25)" "$SCRATCH/logs/$stage.log" | sed 's/^/    /'
  echo "{\"dry\": $([ -n "$DRY" ] && echo true || echo false), \"stages\": {$rows}}" >"$OUT/summary.json"
  tar -czf "$OUT/.logs" -C "$SCRATCH" logs && mv "$OUT/.logs" "$OUT/logs.tar.gz" # in one move: an archive is whole or absent
done
exit $worst
