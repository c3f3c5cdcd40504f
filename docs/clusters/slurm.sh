#!/bin/bash
# One exploration on all nodes of a SLURM job: sbatch slurm.sh [arguments of search.py]
#
# Ray's head and the program run on the first node, where this script does; the others join. Two minutes before its time
# is up the job is told, the program leaves its study in order, and the job is queued again and goes on.
#SBATCH --job-name=qexplore
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# With GPUs: #SBATCH --gpus-per-node=4, and --gpus 1 behind the name of this script.
set -euo pipefail

threads=${THREADS:-1} # of a worker; a study goes on with the same number
workers=${WORKERS:-$((SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK / threads))}
program=${PROGRAM:-$SLURM_SUBMIT_DIR/search.py}

# A cluster of this job's own, whatever else runs on its nodes: a port, a folder and a secret that no other has.
port=$((20000 + SLURM_JOB_ID % 20000))
folder=/tmp/ray-$SLURM_JOB_ID
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
export RAY_worker_niceness=0 # else workers stand back behind everything else on a shared node
export OMP_NUM_THREADS=$threads
offered=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --temp-dir="$folder"
    --object-store-memory=2000000000 --disable-usage-stats --block)

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=${ADDRESS:-$(python -c 'import ray; print(ray.util.get_node_ip_address())')} # of this node, for the others
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false "${offered[@]}" &
steps=($!)
export RAY_ADDRESS=$address:$port
for _ in $(seq 60); do
    ray status --address="$RAY_ADDRESS" >/dev/null 2>&1 && break
    kill -0 "${steps[0]}" || exit 1 # the head is gone, and has said why
    sleep 1
done
if ((SLURM_JOB_NUM_NODES > 1)); then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --nodes="$others" --ntasks="$others" --exclude="$head" --overlap \
        ray start --address="$RAY_ADDRESS" "${offered[@]}" &
    steps+=($!)
fi

trap 'kill -TERM "$driver"' TERM # told to this script alone (B:), so that Ray is still there while the program ends
python "$program" --threads "$threads" --workers "$workers" "$@" &
driver=$!
code=0
wait "$driver" || code=$?
while kill -0 "$driver" 2>/dev/null; do # a signal ends the waiting, not the program
    code=0
    wait "$driver" || code=$?
done
trap '' TERM
kill "${steps[@]}" 2>/dev/null || true
wait "${steps[@]}" || true
if ((code == 0 || code == 75)); then # Ray's logs are for when something went wrong
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --overlap rm -rf "$folder" || true
fi
if ((code == 75)); then # stopped, not done
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
