#!/usr/bin/env bash
# Fine-tune ViT-B/16 on ImageNet-1k as documented: train.py under mpirun, one process for each card of one or more hosts.
set -euo pipefail
app=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$app"
source scripts/launch.sh
trap 'exit 143' TERM # a container's first process ignores it otherwise

usage() {
  cat <<'HELP'
Usage: ./run_vit.sh [options] [-- arguments of train.py]

Fine-tune ViT-B/16 on ImageNet-1k: 20,000 steps of 512 images at 384 pixels, on 1, 2, 4, 8 or 16 cards. Data are in
/dataset, weights in /pretrained/ViT-B_16.npz, results go to /output. What stands after -- goes to train.py, after and
so over the script's own arguments, which are left out if --config is there: they would win over that config.
Other numbers of cards need another --global_batch_size there, or a smaller --train_batch_size.

  --hostfile FILE     hosts, one a line, with or without slots; without one, this machine
  --nodes N           hosts to take, from the first; all of the file
  --cards N           processes on each host, one for each card; the file's slots, else the cards of this machine,
                      else 8 with a hostfile and 1 without
  --pe N              cores bound to each process; an equal share of its socket's cores, 0 binds none
  --setup             first run setup.sh once on every host
  --wait SECONDS      how long the hosts may take to answer ssh; 300
  --dry-run           print the hosts and commands and stop
  -h, --help          this text

Relative paths, those of train.py too, are from the folder of this script.
All output is also appended to NAME.log in the folder of results. On SIGTERM or SIGINT the processes finish their step,
save and end with 75; give --resume after -- to go on from there.

Environment: HOSTSFILE and NUM_NODES stand for --hostfile and --nodes; without them the hostfile is the MPI operator's
(OMPI_MCA_orte_default_hostfile or PRTE_MCA_prte_default_hostfile). MASTER_ADDR and MASTER_PORT are where the processes
meet: the first host, and 15566, which must be free there.
MPI_ROOT is where the other hosts have Open MPI, version 4 or 5.
HELP
}

hostfile=${HOSTSFILE:-${OMPI_MCA_orte_default_hostfile:-${PRTE_MCA_prte_default_hostfile:-}}}
nodes=${NUM_NODES:-} cards='' pe='' setup=0 wait_seconds=300 dry_run=0
[[ -z $nodes ]] || whole NUM_NODES 1 "$nodes"
while (($#)); do
  case $1 in
    --hostfile) value "$@" && hostfile=$2 && shift 2 ;;
    --nodes) whole "$1" 1 "${@:2:1}" && nodes=$2 && shift 2 ;;
    --cards) whole "$1" 1 "${@:2:1}" && cards=$2 && shift 2 ;;
    --pe) whole "$1" 0 "${@:2:1}" && pe=$2 && shift 2 ;;
    --wait) whole "$1" 0 "${@:2:1}" && wait_seconds=$2 && shift 2 ;;
    --setup) setup=1 && shift ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) usage_error "there is no option $1; arguments of train.py stand after --" ;;
  esac
done

# argument NAME...: the last value that train.py is given for a flag of one of these names.
argument() {
  local word flag awaited=0 found=''
  for word in "${training[@]}"; do
    if ((awaited)); then
      found=$word awaited=0
      continue
    fi
    flag=${word%%=*}
    flag=${flag//_/-}
    [[ $word == --* && " $* " == *" ${flag#--} "* ]] || continue
    awaited=1
    if [[ $word == *=* ]]; then found=${word#*=} awaited=0; fi
  done
  printf '%s' "$found"
}

training=("$@")
data=(--data_path /dataset)
if [[ $(argument dataset) == generated ]]; then data=(); fi # train.py refuses a folder that it would not read
# The document's command. --global_batch_size keeps its 512 images a step on other numbers of cards too.
documented=(--name imagenet1k_TF
  --dataset imagenet1K
  "${data[@]}"
  --model_type ViT-B_16
  --pretrained_dir /pretrained/ViT-B_16.npz
  --output_dir /output
  --num_steps 20000
  --eval_every 1000
  --train_batch_size 64
  --gradient_accumulation_steps 2
  --global_batch_size 512
  --img_size 384
  --learning_rate 0.06
  --autocast)
config=$(argument config)
if [[ -n $config ]]; then documented=(); fi
training=(python3 "$app/train.py" "${documented[@]}" "$@")

# Set hosts, cards and a line "HOST slots=CARDS" for each in slots.
choose_hosts() {
  local host count
  hosts=() slots=()
  if [[ -n $hostfile ]]; then
    [[ -r $hostfile && ! -d $hostfile ]] || usage_error "the hostfile $hostfile can't be read from $app: check --hostfile"
    while read -r host count; do
      ((${#hosts[@]} < ${nodes:-1000000})) || break
      hosts+=("$host")
      ((count == 0)) || slots+=("$count")
    done < <(hosts_of "$hostfile")
    ((${#hosts[@]})) || usage_error "the hostfile $hostfile names no host"
  else
    hosts=(localhost)
  fi
  nodes=${nodes:-${#hosts[@]}}
  ((${#hosts[@]} == nodes)) || usage_error "$nodes hosts are wanted and there are ${#hosts[@]}: check the hostfile"
  if [[ -z $cards ]]; then
    cards=$(cards_of_file_or_machine)
  fi
  for count in "${slots[@]}"; do
    ((count >= cards)) || usage_error "$cards processes on each host are wanted and a host has $count slots"
  done
}

# Fewest slots of the hosts; else the cards of this machine; else 8 as the document has it, or one process.
cards_of_file_or_machine() {
  local found=0
  if ((${#slots[@]})); then
    printf '%s\n' "${slots[@]}" | sort -n | head -n 1
    return
  fi
  if [[ -z $hostfile ]] && command -v hl-smi >/dev/null; then
    found=$(hl-smi -Q index -f csv,noheader 2>/dev/null | grep -c '[0-9]' || true)
  fi
  if ((found)); then
    echo "$found"
  else
    [[ -n $hostfile ]] && echo 8 || echo 1
  fi
}

# The major version of Open MPI.
mpi_version() {
  local line
  command -v mpirun >/dev/null || fail "mpirun is not on PATH: activate the environment that Open MPI is installed in"
  line=$(mpirun --version 2>&1 | head -n 1)
  [[ $line =~ Open\ MPI\)\ ([0-9]+)\. ]] || fail "mpirun is not Open MPI's but says \"$line\": put Open MPI 4 or 5 on PATH"
  echo "${BASH_REMATCH[1]}"
}

# Set placing: how mpirun places and binds the processes. Each has its share of a socket's cores where the sockets can
# have equal numbers of processes; Open MPI 5 refuses to bind a process to cores of two sockets.
place() {
  local version=$1 sockets total least socket=socket order=core each
  if ((version > 4)); then socket=package order=slot; fi
  read -r sockets total least < <(cores_of "${hosts[0]}") || true
  each="ppr:$cards:node"
  if ((sockets && cards % sockets == 0)); then
    pe=${pe:-$((least * sockets / cards))}
    if ((pe)); then each="ppr:$((cards / sockets)):$socket"; fi
  fi
  pe=${pe:-0}
  plan="# $nodes x $cards processes, $pe cores bound to each; cores of ${hosts[0]}: ${total:-unknown}"
  plan+="${sockets:+ on $sockets sockets}"
  placing=(--bind-to none --map-by "$each")
  if ((pe)); then placing=(--bind-to core --map-by "$each:PE=$pe" --report-bindings); fi
  placing+=(--rank-by "$order")
}

# Set exported: mpirun's options for the environment of the processes, which ssh does not hand on.
export_variables() {
  local name
  exported=(-x "MASTER_ADDR=${MASTER_ADDR:-${hosts[0]}}" -x "MASTER_PORT=${MASTER_PORT:-15566}")
  while read -r name; do
    case $name in
      HABANA_VISIBLE_*) ;; # of this machine's own cards
      PATH | PYTHONPATH | LD_LIBRARY_PATH | GC_KERNEL_PATH | OMP_* | GLOO_* | NCCL_* | HCCL_* | HCL_* | PT_* | HABANA_*)
        exported+=(-x "$name")
        ;;
    esac
  done < <(compgen -e | sort)
}

find_common "${app%/*}"
choose_hosts
version=$(mpi_version)
if ((!dry_run)); then wait_for "$wait_seconds" "${hosts[@]}"; fi
place "$version"
export_variables
results=$(argument output-dir output) name=$(argument name)
log="${results:-output}/${name:-$config}.log" # train.py's own folder, where a config leaves it
slots_file="${log%.log}.hosts"

base=(mpirun --hostfile "$slots_file")
[[ -z ${MPI_ROOT:-} ]] || base+=(--prefix "$MPI_ROOT")
((EUID)) || base+=(--allow-run-as-root)
if ((version > 4)); then
  base+=(--output "tag,merge")
else
  base+=(--tag-output --merge-stderr-to-stdout --mca orte_keep_fqdn_hostnames 1)
fi
setting_up=("${base[@]}" -np "$nodes" --map-by ppr:1:node --bind-to none "${exported[@]}" bash "$app/setup.sh")
command=("${base[@]}" -np "$((nodes * cards))" "${placing[@]}" "${exported[@]}" "${training[@]}")

if ((dry_run)); then
  printf '%s\n' "$plan" "${hosts[@]/%/ slots=$cards}"
  ((!setup)) || printf '%s\n' "$(quoted "${setting_up[@]}")"
  printf '%s\n' "$(quoted "${command[@]}")" "# output also in $log"
  exit
fi
mkdir -p "${log%/*}"
printf '%s\n' "${hosts[@]/%/ slots=$cards}" >"$slots_file"
exec > >(exec tee -ai "$log") 2>&1
tee_id=$!
printf '%s\n' "$plan"
status=0
((!setup)) || run_stoppable "${setting_up[@]}" || status=$?
if ((!status)); then run_stoppable "${command[@]}" || status=$?; fi
exec >&- 2>&-
wait "$tee_id" || true
exit "$status"
