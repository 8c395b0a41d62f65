#!/usr/bin/env bash
# Train under SLURM: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [ARGS OF train.py …]
# Environment variables: GPUS, GPUS_PER_NODE, CPUS_PER_TASK, SRUN_ARGS.
set -euo pipefail
partition=${1:?usage: slurm_train.sh PARTITION JOB_NAME CONFIG [ARGS …]}
job_name=${2:?usage: slurm_train.sh PARTITION JOB_NAME CONFIG [ARGS …]}
config=${3:?usage: slurm_train.sh PARTITION JOB_NAME CONFIG [ARGS …]}
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}

# SRUN_ARGS may hold several arguments
# shellcheck disable=SC2086
exec srun -p "$partition" --job-name="$job_name" --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "${@:4}"
