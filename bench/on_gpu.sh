#!/usr/bin/env bash
# Measure everything on a GPU in at most 9 minutes, without network: bash bench/on_gpu.sh OUT [WHEELS] [--rehearse]
# OUT: a folder for results, written after every part. WHEELS: a folder of wheels that this Python lacks (aslfast's
# dependencies, peers), never torch or triton. --rehearse: tiny sizes on a CPU; its times mean nothing.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHONPATH="$root" exec "${PYTHON:-python3}" -m bench.gpu_run.run "$@"
