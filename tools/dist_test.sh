#!/usr/bin/env bash
# Test on several GPUs: tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGS OF test.py …]
# For several machines, set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail
config=${1:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [ARGS …]}
checkpoint=${2:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [ARGS …]}
gpus=${3:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [ARGS …]}

# exec, so that torchrun gets the signals sent to this script
exec torchrun --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" --nproc_per_node="$gpus" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
