#!/usr/bin/env bash
# Throughput of ViT-B/16 pretraining on several hosts, 4 replicas each: generated data, 256 steps of 65,472 images.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/launch.sh
source scripts/benchmark.sh

usage() {
  cat <<'HELP'
Usage: ./run_multihosts.sh -n HOST,HOST,... [-s HOST -p PARTITION] [options] [-- arguments of pretrain.py]

Measure the throughput of pretraining ViT-B/16 on several hosts with generated data: poprun on IPUs where it is on
PATH, torchrun otherwise, started on the other hosts through ssh. Code, data and environment lie at the same path on
all of them. What stands after -- goes to pretrain.py, after and so over the script's own arguments.

  -n, --hosts LIST          hosts, separated by commas; the first one is where processes meet
  -s, --controller HOST     V-IPU controller (poprun only, required there)
  -o, --control-nic NAME    network of poprun's control messages (poprun only)
  -b, --data-nic NAME       network of the data; for poprun as 10.5.0.0/16 too
  -p, --partition NAME      V-IPU partition, made if it is not there (poprun only, required there)
  -c, --allocation NAME     V-IPU allocation to make the partition in (poprun only)
  -r, --replicas N          replicas in all; 4 for each host
  -i, --instances N         processes in all, which share the replicas; 2 for each host
      --config NAME         train this config of pretrain.py with its own numbers instead
      --launcher NAME       poprun or torchrun, whatever is on PATH
      --dry-run             print the commands and stop
  -h, --help                this text

MASTER_PORT, 29500 unless it is set, must be free on the first host.
HELP
}

hosts='' controller='' control_nic='' data_nic='' partition='' allocation='' replicas='' instances=''
while (($#)); do
  case $1 in
    -n | --hosts) value "$@" && hosts=$2 && shift 2 ;;
    -s | --controller) value "$@" && controller=$2 && shift 2 ;;
    -o | --control-nic) value "$@" && control_nic=$2 && shift 2 ;;
    -b | --data-nic) value "$@" && data_nic=$2 && shift 2 ;;
    -p | --partition) value "$@" && partition=$2 && shift 2 ;;
    -c | --allocation) value "$@" && allocation=$2 && shift 2 ;;
    -r | --replicas) whole "$@" && replicas=$2 && shift 2 ;;
    -i | --instances) whole "$@" && instances=$2 && shift 2 ;;
    --config) value "$@" && config=$2 && shift 2 ;;
    --launcher) value "$@" && launcher=$2 && shift 2 ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) usage_error "there is no option $1; arguments of pretrain.py stand after --" ;;
  esac
done

[[ -n $hosts ]] || usage_error "the hosts are missing: give -n"
[[ ,$hosts, != *,,* ]] || usage_error "-n $hosts has an empty name"
IFS=, read -ra host_list <<<"$hosts"
count=${#host_list[@]}
replicas=${replicas:-$((4 * count))}
instances=${instances:-$((2 * count))}
choose_launcher
divides hosts "$count" processes "$instances"
divides processes "$instances" replicas "$replicas"

name=vit_scalability_$(date +%Y%m%d-%H%M%S)
choose_training "output/$name" "$replicas" 256 32 4 "$@"
meeting=("MASTER_ADDR=${host_list[0]}" "MASTER_PORT=${MASTER_PORT:-29500}")

# What MPI passes on to the processes of other hosts.
passed_on=(OPAL_PREFIX LD_LIBRARY_PATH PATH PYTHONPATH CPATH POPLAR_SDK_ENABLED POPLAR_ENGINE_OPTIONS
  POPLAR_LOG_LEVEL IPUOF_VIPU_API_TIMEOUT MASTER_ADDR MASTER_PORT)

poprun_command() {
  local mpi="--output-filename output_poprun"
  [[ -z $control_nic ]] || mpi+=" --mca oob_tcp_if_include $control_nic"
  [[ -z $data_nic ]] || mpi+=" --mca btl_tcp_if_include $data_nic"
  local words=(env IPUOF_VIPU_API_TIMEOUT=1000 POPLAR_LOG_LEVEL=WARN
    'POPLAR_ENGINE_OPTIONS={"target.hostSyncTimeout": "3000"}' "${meeting[@]}"
    poprun -vv --host="$hosts" --num-replicas="$replicas" --num-instances="$instances" --num-ilds="$instances"
    --ipus-per-replica=4 --vipu-server-host="$controller" --vipu-partition="$partition")
  [[ -z $allocation ]] || words+=(--vipu-allocation="$allocation")
  words+=(--update-partition=yes --remove-partition=no --mpi-global-args="$mpi")
  words+=(--mpi-local-args="${passed_on[*]/#/-x }" python3)
  quoted "${words[@]}" "${training[@]}"
}

# torchrun_command INDEX: torchrun's line for one host, through ssh if it is another machine.
torchrun_command() {
  local words=()
  [[ -z $data_nic ]] || words+=(env "GLOO_SOCKET_IFNAME=$data_nic" "NCCL_SOCKET_IFNAME=$data_nic")
  words+=(torchrun --nnodes="$count" --node-rank="$1" --nproc-per-node="$((instances / count))"
    --master-addr="${host_list[0]}" --master-port="${MASTER_PORT:-29500}" "${training[@]}")
  quoted_on "${host_list[$1]}" "${words[@]}"
}

if [[ $launcher == poprun ]]; then
  [[ -n $controller ]] || usage_error "poprun needs the V-IPU controller: give -s"
  [[ -n $partition ]] || usage_error "poprun needs the V-IPU partition: give -p"
  commands+=("$(poprun_command)")
else
  [[ $data_nic != */* ]] || usage_error "torchrun takes the name of a network interface, not $data_nic: change -b"
  meet_at "${host_list[@]}"
  only_poprun -s "$controller"
  only_poprun -o "$control_nic"
  only_poprun -p "$partition"
  only_poprun -c "$allocation"
  for index in "${!host_list[@]}"; do
    commands+=("$(torchrun_command "$index")")
  done
fi
launch "output/$name.log"
