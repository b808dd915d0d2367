# shellcheck shell=bash
# What run_singlehost.sh and run_multihosts.sh train, and with which launcher; sourced after launch.sh, not run. Sets:
#   launcher  poprun where it is on PATH, torchrun otherwise, or what --launcher gave
#   training  pretrain.py and its arguments
# and reads config, of pretrain.py, instead of the benchmark.

config=
training=()
readonly global_batch=65536 micro_batch=12 # an update takes the most micro-batches of all replicas that are within it

choose_launcher() {
  if [[ -z $launcher ]]; then
    launcher=torchrun
    if command -v poprun >/dev/null; then launcher=poprun; fi
  fi
  [[ $launcher == poprun || $launcher == torchrun ]] || usage_error "--launcher is poprun or torchrun, not $launcher"
}

# choose_training OUTPUT REPLICAS STEPS WORKERS PARTS [ARGUMENT...]: the benchmark of STEPS host steps on generated
# data, whose loading processes put together PARTS of a replica's micro-batches at a time; or the config asked for.
choose_training() {
  local output=$1 replicas=$2 steps=$3 workers=$4 parts=$5 count
  shift 5
  training=(pretrain.py --config "${config:-b16_in1k_pretrain}")
  if [[ -z $config ]]; then
    count=$((global_batch / micro_batch / replicas))
    ((count > 0)) || usage_error "$replicas replicas are more than a global batch of $global_batch has micro-batches"
    training+=(--dataset generated --iterations "$steps" --epochs 1 --micro-batch-size "$micro_batch"
      --gradient-accumulation "$count" --rebatched-worker-size "$((parts * count))" --dataloader-workers "$workers"
      --byteio true --enable-rts true --optimizer-state-offchip false --evaluate false)
  fi
  training+=(--replication-factor "$replicas" --output "$output" "$@")
}
