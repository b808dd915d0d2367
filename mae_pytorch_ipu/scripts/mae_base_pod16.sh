#!/usr/bin/env bash
# Pretrain MAE ViT-B/16 on this host: 4 replicas in one process, 4,128 images per update.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/launch.sh

usage() {
  cat <<'HELP'
Usage: bash scripts/mae_base_pod16.sh [options] [-- arguments of main_pretrain.py]

Pretrain MAE ViT-B/16 on this host: on a POD16 where the Poplar SDK is enabled, else on the GPU or CPU. What stands
after -- goes to main_pretrain.py, after and so over the script's own arguments.

  -n HOST          this host; for others take mae_base_pod64.sh
  -s HOST          V-IPU controller; by default what the machine is set up with
  -p NAME          V-IPU partition; by default what the machine is set up with
  -c NAME          V-IPU cluster; only mae_base_pod64.sh makes partitions in it
      --config NAME    another config of main_pretrain.py; vit_base_pod16
      --dry-run        print the command and stop
  -h, --help           this text
HELP
}

host='' controller='' partition='' cluster='' config=vit_base_pod16
while (($#)); do
  case $1 in
    -n) value "$@" && host=$2 && shift 2 ;;
    -s) value "$@" && controller=$2 && shift 2 ;;
    -p) value "$@" && partition=$2 && shift 2 ;;
    -c) value "$@" && cluster=$2 && shift 2 ;;
    --config) value "$@" && config=$2 && shift 2 ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) usage_error "there is no option $1; arguments of main_pretrain.py stand after --" ;;
  esac
done

[[ -z $host ]] || is_here "$host" || usage_error "$host is not this host: run the script there, or mae_base_pod64.sh"
[[ -z $cluster ]] || note "-c has no effect on one host"
launcher=python3
words=()
[[ -z $controller ]] || words+=("IPUOF_VIPU_API_HOST=$controller")
[[ -z $partition ]] || words+=("IPUOF_VIPU_API_PARTITION_ID=$partition")
((${#words[@]} == 0)) || words=(env "${words[@]}")
commands+=("$(quoted "${words[@]}" python3 main_pretrain.py --config "$config" "$@")")
launch "output/mae_pod16_$(date +%Y%m%d-%H%M%S).log"
