# shellcheck shell=bash
# What run_singlehost.sh and run_multihosts.sh share; sourced, not run. Sets and reads:
#   launcher  poprun where it is on PATH, torchrun otherwise, or what --launcher gave
#   config    of pretrain.py, instead of the benchmark
#   training  pretrain.py and its arguments
#   commands  shell lines, started together
#   dry_run   1 to print them instead

launcher=
config=
training=()
commands=()
dry_run=0
readonly global_batch=65536 micro_batch=12 # an update takes the most micro-batches of all replicas that are within it

# Print one sentence and exit with 2.
usage_error() {
  printf '%s: %s (see --help)\n' "${0##*/}" "$1" >&2
  exit 2
}

# value OPTION [VALUE]: end with an error unless the option was given a value.
value() {
  if (($# < 2)) || [[ -z $2 || $2 == -* ]]; then
    usage_error "$1 needs a value"
  fi
}

# whole OPTION VALUE: end with an error unless the value is a number from 1.
whole() {
  value "$@"
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || usage_error "$1 takes a whole number from 1, not $2"
}

# divides WHAT PARTS WHAT WHOLE: end with an error unless the parts divide the whole.
divides() {
  (($4 % $2 == 0)) || usage_error "$4 $3 can't be dealt out to $2 $1: change one of the two"
}

choose_launcher() {
  if [[ -z $launcher ]]; then
    launcher=torchrun
    if command -v poprun >/dev/null; then launcher=poprun; fi
  fi
  [[ $launcher == poprun || $launcher == torchrun ]] || usage_error "--launcher is poprun or torchrun, not $launcher"
}

# only_poprun OPTION VALUE: say that torchrun has no use for an option that was given.
only_poprun() {
  if [[ $launcher == torchrun && -n $2 ]]; then
    printf '%s: %s is for IPUs and has no effect with torchrun\n' "${0##*/}" "$1" >&2
  fi
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

# Print words as one shell line that gives these words again.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:,=@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  printf '%s' "${line% }"
}

# launch LOG: run all commands with their output also in LOG, or print them. The first failure stops the others;
# SIGTERM is passed on, so that a run saves and ends.
launch() {
  local log=$1
  if ((dry_run)); then
    printf '%s\n' "${commands[@]}" "# output also in $log"
    return
  fi
  command -v "$launcher" >/dev/null || {
    printf '%s: %s is not on PATH: activate the environment that it is installed in\n' "${0##*/}" "$launcher" >&2
    exit 1
  }
  mkdir -p "$(dirname "$log")"
  exec > >(exec tee -i "$log") 2>&1
  local tee_id=$! status=0
  run_together || status=$?
  exec >&- 2>&-
  wait "$tee_id" || true
  exit "$status"
}

run_together() {
  local line index ended status=0
  processes=()
  trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' TERM
  for line in "${commands[@]}"; do
    bash -c "exec $line" &
    processes+=($!)
  done
  while ((${#processes[@]})); do
    for index in "${!processes[@]}"; do
      if kill -0 "${processes[index]}" 2>/dev/null; then continue; fi
      ended=0
      wait "${processes[index]}" || ended=$?
      unset "processes[index]"
      if ((ended && !status)); then
        status=$ended
        ((${#processes[@]} == 0)) || kill -TERM "${processes[@]}" 2>/dev/null || true
      fi
    done
    sleep 0.5
  done
  return "$status"
}
