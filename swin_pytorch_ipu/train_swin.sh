#!/usr/bin/env bash
# Train a config in one process or several, on IPUs through poprun, elsewhere through torchrun.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/launch.sh

usage() {
  cat <<HELP
Usage: ./$name [options] [-- arguments of train_swin.py]

Train a config of train_swin.py: with poprun where it is on PATH, otherwise as one process, or with torchrun as several
on this host. Paths are relative to this folder. What stands after -- goes to train_swin.py, after and so over the
script's own arguments.

      --cfg NAME               config${config:+; $config}
      --pretrained-model FILE  weights to start from${weights:+; $weights}
      --data-path FOLDER       data, instead of the config's
      --output FOLDER          run folder, instead of output/NAME
  -r, --replicas N             replicas in all${replicas:+; $replicas}
  -i, --instances N            processes that share the replicas; $instances
  -k, --ipus-per-replica N     IPUs of one pipeline (poprun only); $ipus
  -n, --hosts LIST             hosts, separated by commas; the first is where processes meet (poprun only)
  -s, --controller HOST        V-IPU controller (poprun only, required there with several instances)
  -p, --partition NAME         V-IPU partition (poprun only, required there with several instances)
  -b, --nic NAME               network of MPI, also as 10.5.0.0/16 (poprun only)
      --launcher NAME          poprun, torchrun or python3, whatever fits
      --dry-run                print the command and stop
  -h, --help                   this text
HELP
}

config='' weights='' data='' output='' replicas='' instances=1 ipus=8 hosts='' controller='' partition='' nic=''
launcher='' dry_run=0 asks_help=0
while (($#)); do
  case $1 in
    --name) value "$@" && name=$2 && shift 2 ;; # of the script that calls this one
    --cfg) value "$@" && config=$2 && shift 2 ;;
    --pretrained-model) value "$@" && weights=$2 && shift 2 ;;
    --data-path) value "$@" && data=$2 && shift 2 ;;
    --output) value "$@" && output=$2 && shift 2 ;;
    -r | --replicas) whole "$@" && replicas=$2 && shift 2 ;;
    -i | --instances) whole "$@" && instances=$2 && shift 2 ;;
    -k | --ipus-per-replica) whole "$@" && ipus=$2 && shift 2 ;;
    -n | --hosts) value "$@" && hosts=$2 && shift 2 ;;
    -s | --controller) value "$@" && controller=$2 && shift 2 ;;
    -p | --partition) value "$@" && partition=$2 && shift 2 ;;
    -b | --nic) value "$@" && nic=$2 && shift 2 ;;
    --launcher) value "$@" && launcher=$2 && shift 2 ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) asks_help=1 && shift ;;
    --) shift && break ;;
    *) usage_error "there is no option $1; arguments of train_swin.py stand after --" ;;
  esac
done
if ((asks_help)); then
  usage
  exit 0
fi

[[ -n $config ]] || usage_error "the config is missing: give --cfg"
if [[ -z $launcher ]]; then
  launcher=python3
  ((instances == 1)) || launcher=torchrun
  if ((instances > 1)) && command -v poprun >/dev/null; then launcher=poprun; fi
fi
training=(train_swin.py --cfg "$config")
[[ -z $weights ]] || training+=(--pretrained-model "$weights")
[[ -z $data ]] || training+=(--data-path "$data")
[[ -z $output ]] || training+=(--output "$output")
[[ -z $replicas ]] || training+=(--replicas "$replicas")
training+=("$@")

if ((instances > 1)); then
  [[ -n $replicas ]] || usage_error "several instances share the replicas: give -r"
  ((replicas % instances == 0)) || usage_error "$replicas replicas can't be dealt out to $instances processes: change one"
fi
if [[ $launcher != poprun ]]; then
  for given in "-n:$hosts" "-s:$controller" "-p:$partition" "-b:$nic"; do
    [[ -z ${given#*:} ]] || printf '%s: %s is for IPUs and has no effect with %s\n' "$name" "${given%%:*}" "$launcher" >&2
  done
fi

case $launcher in
  python3)
    ((instances == 1)) || usage_error "python3 starts one process, not $instances: leave out --launcher"
    launch "$dry_run" python3 "${training[@]}"
    ;;
  torchrun)
    launch "$dry_run" torchrun --standalone --nproc-per-node="$instances" "${training[@]}"
    ;;
  poprun)
    [[ -n $controller ]] || usage_error "poprun needs the V-IPU controller: give -s"
    [[ -n $partition ]] || usage_error "poprun needs the V-IPU partition: give -p"
    [[ -n $replicas ]] || usage_error "poprun needs the number of replicas: give -r"
    passed_on=(OPAL_PREFIX LD_LIBRARY_PATH PATH PYTHONPATH CPATH POPLAR_SDK_ENABLED POPLAR_ENGINE_OPTIONS
      POPLAR_LOG_LEVEL IPUOF_VIPU_API_TIMEOUT MASTER_ADDR MASTER_PORT)
    first=${hosts%%,*} mpi="--output-filename output_poprun"
    [[ -z $nic ]] || mpi+=" --mca oob_tcp_if_include $nic --mca btl_tcp_if_include $nic"
    words=(env IPUOF_VIPU_API_TIMEOUT=3600 POPLAR_LOG_LEVEL=WARN
      'POPLAR_ENGINE_OPTIONS={"target.hostSyncTimeout": "3000"}'
      "MASTER_ADDR=${first:-127.0.0.1}" "MASTER_PORT=${MASTER_PORT:-29500}" poprun -vv)
    [[ -z $hosts ]] || words+=(--host="$hosts")
    words+=(--num-replicas="$replicas" --num-instances="$instances" --num-ilds="$instances" --ipus-per-replica="$ipus"
      --vipu-server-host="$controller" --vipu-partition="$partition" --vipu-server-timeout=3600 --update-partition=yes
      --remove-partition=no --mpi-global-args="$mpi" --mpi-local-args="${passed_on[*]/#/-x }" python3)
    launch "$dry_run" "${words[@]}" "${training[@]}"
    ;;
  *) usage_error "--launcher is poprun, torchrun or python3, not $launcher" ;;
esac
