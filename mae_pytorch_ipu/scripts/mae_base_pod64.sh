#!/usr/bin/env bash
# Pretrain MAE ViT-B/16 on several hosts, 4 replicas each: on four of them 16 replicas, 4,128 images per update.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/launch.sh

usage() {
  cat <<'HELP'
Usage: bash scripts/mae_base_pod64.sh -n HOST,HOST,... [-s HOST -p NAME -c NAME] [options] [-- arguments]

Pretrain MAE ViT-B/16 on several hosts: with poprun where it is on PATH, else with torchrun on their GPUs or CPUs, on
other hosts through ssh. Code, data and environment lie at the same path on all of them. What stands after -- goes to
main_pretrain.py, after and so over the script's own arguments.

  -n LIST          hosts, separated by commas; the first one is where processes meet
  -s HOST          V-IPU controller (poprun only, required there)
  -p NAME          V-IPU partition (poprun only, required there)
  -c NAME          V-IPU cluster, an allocation to make the partition in (poprun only)
  -r N             replicas in all; 4 for each host
  -i N             processes in all, which share the replicas; 1 for each host
      --config NAME    another config of main_pretrain.py, with its own batches on the replicas; vit_base_pod64
      --launcher NAME  poprun or torchrun
      --dry-run        print the commands and stop; with -s, poprun's even where there is none
  -h, --help           this text

MASTER_PORT, 29500 unless it is set, must be free on the first host.
HELP
}

hosts='' controller='' partition='' cluster='' replicas='' instances='' config=vit_base_pod64
while (($#)); do
  case $1 in
    -n) value "$@" && hosts=$2 && shift 2 ;;
    -s) value "$@" && controller=$2 && shift 2 ;;
    -p) value "$@" && partition=$2 && shift 2 ;;
    -c) value "$@" && cluster=$2 && shift 2 ;;
    -r) whole "$@" && replicas=$2 && shift 2 ;;
    -i) whole "$@" && instances=$2 && shift 2 ;;
    --config) value "$@" && config=$2 && shift 2 ;;
    --launcher) value "$@" && launcher=$2 && shift 2 ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) usage_error "there is no option $1; arguments of main_pretrain.py stand after --" ;;
  esac
done

[[ -n $hosts ]] || usage_error "the hosts are missing: give -n"
[[ ,$hosts, != *,,* ]] || usage_error "-n $hosts has an empty name"
IFS=, read -ra host_list <<<"$hosts"
count=${#host_list[@]}
replicas=${replicas:-$((4 * count))}
instances=${instances:-$count}
divides hosts "$count" processes "$instances"
divides processes "$instances" replicas "$replicas"

if [[ -z $launcher ]]; then
  launcher=torchrun
  if command -v poprun >/dev/null || [[ $dry_run == 1 && -n $controller ]]; then launcher=poprun; fi
fi
[[ $launcher == poprun || $launcher == torchrun ]] || usage_error "--launcher is poprun or torchrun, not $launcher"

# An update of vit_base_pod64 has 688 micro-batches of 6 images, and as many of them as go evenly on other replicas.
training=(main_pretrain.py --config "$config")
if [[ $config != vit_base_pod64 ]]; then
  training+=(--replica "$replicas")
elif ((replicas != 16)); then
  accumulation=$((688 / replicas))
  ((accumulation > 0)) || usage_error "$replicas replicas are more than an update has micro-batches, 688"
  training+=(--replica "$replicas" --gradient_accumulation_count "$accumulation")
fi
training+=("$@")
meeting=("MASTER_ADDR=${host_list[0]}" "MASTER_PORT=${MASTER_PORT:-29500}")

# What MPI passes on to the processes of other hosts.
passed_on=(OPAL_PREFIX LD_LIBRARY_PATH PATH PYTHONPATH CPATH IPUOF_VIPU_API_TIMEOUT=3600 POPLAR_LOG_LEVEL=WARN
  POPLAR_SDK_ENABLED POPLAR_ENGINE_OPTIONS MASTER_ADDR MASTER_PORT)

poprun_command() {
  local words=(env
    'POPLAR_ENGINE_OPTIONS={"opt.enableMultiAccessCopies": "false", "target.hostSyncTimeout": "900"}' "${meeting[@]}"
    poprun -vv --num-replicas="$replicas" --num-instances="$instances" --host="$hosts" --ipus-per-replica=4
    --vipu-server-host="$controller" --vipu-server-timeout=3600 --vipu-partition="$partition")
  [[ -z $cluster ]] || words+=(--vipu-allocation="$cluster")
  words+=(--mpi-local-args="${passed_on[*]/#/-x }" python3)
  quoted "${words[@]}" "${training[@]}"
}

# torchrun_command INDEX: torchrun's line for one host, through ssh if it is another machine.
torchrun_command() {
  quoted_on "${host_list[$1]}" torchrun --nnodes="$count" --node-rank="$1" --nproc-per-node="$((instances / count))" \
    --master-addr="${host_list[0]}" --master-port="${MASTER_PORT:-29500}" "${training[@]}"
}

if [[ $launcher == poprun ]]; then
  [[ -n $controller ]] || usage_error "poprun needs the V-IPU controller: give -s"
  [[ -n $partition ]] || usage_error "poprun needs the V-IPU partition: give -p"
  commands+=("$(poprun_command)")
else
  meet_at "${host_list[@]}"
  only_poprun -s "$controller"
  only_poprun -p "$partition"
  only_poprun -c "$cluster"
  for index in "${!host_list[@]}"; do
    commands+=("$(torchrun_command "$index")")
  done
fi
launch "output/mae_pod64_$(date +%Y%m%d-%H%M%S).log"
