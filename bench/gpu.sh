#!/usr/bin/env bash
# Run what a GPU machine should run, within a budget of seconds: bench/gpu.sh OUT [STAGE ...]; bench/gpu.py says what and how
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu.py" "$@"
