#!/usr/bin/env bash
# Throughput of ViT-B/16 pretraining on one host: 4 replicas, generated data, 64 steps of 65,520 images.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/launch.sh
source scripts/benchmark.sh

usage() {
  cat <<'HELP'
Usage: ./run_singlehost.sh [-s HOST -p PARTITION] [options] [-- arguments of pretrain.py]

Measure the throughput of pretraining ViT-B/16 on this host with generated data: poprun on IPUs where it is on PATH,
torchrun otherwise. What stands after -- goes to pretrain.py, after and so over the script's own arguments.

  -s, --controller HOST     V-IPU controller (poprun only, required there)
  -p, --partition NAME      V-IPU partition (poprun only, required there)
  -r, --replicas N          replicas in all; 4
  -i, --instances N         processes that share the replicas; 1
      --config NAME         train this config of pretrain.py with its own numbers instead
      --launcher NAME       poprun or torchrun, whatever is on PATH
      --dry-run             print the command and stop
  -h, --help                this text
HELP
}

controller='' partition='' replicas=4 instances=1
while (($#)); do
  case $1 in
    -s | --controller) value "$@" && controller=$2 && shift 2 ;;
    -p | --partition) value "$@" && partition=$2 && shift 2 ;;
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

choose_launcher
divides processes "$instances" replicas "$replicas"
name=vit_scalability_$(date +%Y%m%d-%H%M%S)
choose_training "output/$name" "$replicas" 64 64 1 "$@"

if [[ $launcher == poprun ]]; then
  [[ -n $controller ]] || usage_error "poprun needs the V-IPU controller: give -s"
  [[ -n $partition ]] || usage_error "poprun needs the V-IPU partition: give -p"
  words=(env "IPUOF_VIPU_API_HOST=$controller" "IPUOF_VIPU_API_PARTITION_ID=$partition"
    poprun -vv --num-replicas="$replicas" --num-instances="$instances" --ipus-per-replica=4
    --vipu-server-host="$controller" --vipu-partition="$partition" python3)
else
  only_poprun -s "$controller"
  only_poprun -p "$partition"
  words=(torchrun --standalone --nproc-per-node="$instances")
fi
commands+=("$(quoted "${words[@]}" "${training[@]}")")
launch "output/$name.log"
