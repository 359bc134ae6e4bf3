# What the jobs of this folder have in common; they are submitted in the checkout, and write their logs to logs/.

PATH=$PWD/.venv/bin:$PATH
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-}
[ -n "$SRUN_CPUS_PER_TASK" ] || unset SRUN_CPUS_PER_TASK
# In an array each task does its part; --shard slurm:N after it (the last one counts) redoes some of N tasks.
shard=(${SLURM_ARRAY_TASK_ID:+--shard slurm})
task=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}

# run COMMAND…: under srun. SIGUSR1, which SLURM sends before the time limit (--signal=B:USR1@SECONDS), ends the command
# with its work kept, and queues the job again, which continues. (srun passes USR1 on; at SIGTERM it would kill at once.)
run() {
    local step again="" status=0
    srun "$@" &
    step=$!
    trap 'again=1; kill -USR1 $step 2>/dev/null' USR1
    trap 'kill -USR1 $step 2>/dev/null' TERM
    while kill -0 "$step" 2>/dev/null; do
        status=0
        wait "$step" || status=$?
    done
    if [ -n "$again" ] && [ "$status" != 0 ]; then
        echo "stopped before the time limit: $task is queued again"
        scontrol requeue "$task" && sleep 60
    fi
    exit "$status"
}
