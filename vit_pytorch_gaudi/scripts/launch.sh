# shellcheck shell=bash
# What run_vit.sh and setup.sh share; sourced, not run.

# Print one sentence and exit with 2.
usage_error() {
  printf '%s: %s (see --help)\n' "${0##*/}" "$1" >&2
  exit 2
}

# Print one sentence and exit with 1.
fail() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 1
}

# value OPTION [VALUE]: end with an error unless the option was given a value.
value() {
  if (($# < 2)) || [[ -z $2 || $2 == -* ]]; then
    usage_error "$1 needs a value"
  fi
}

# whole OPTION LEAST VALUE: end with an error unless the value is a number from LEAST.
whole() {
  value "$1" "${@:3}"
  [[ $3 =~ ^(0|[1-9][0-9]{0,5})$ && $3 -ge $2 ]] || usage_error "$1 takes a whole number from $2, not $3"
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

# find_common FOLDER: let Python find the package `common` in it, not installed: hosts that share it needn't write to it.
find_common() {
  if [[ -d $1/common ]]; then
    export PYTHONPATH="$1${PYTHONPATH:+:$PYTHONPATH}"
  fi
}

# hosts_of HOSTFILE: a line "HOST SLOTS" for each host of Open MPI's or Intel MPI's format, 0 slots where none are named.
hosts_of() {
  awk '
    { sub(/#.*/, "") }
    NF {
      host = $1; count = 0; named = 0
      if (split(host, parts, ":") == 2 && parts[2] ~ /^[0-9]+$/) { host = parts[1]; count = parts[2]; named = 1 }
      if (match($0, /[ \t]slots *= *[0-9]+/)) {
        count = substr($0, RSTART, RLENGTH); gsub(/[^0-9]/, "", count); named = 1
      }
      if (!(host in slots)) order[++hosts] = host
      slots[host] += count; lines[host]++; any += named
    }
    END {
      for (i = 1; i <= hosts; i++) {
        host = order[i]
        print host, (any || lines[host] == 1) ? slots[host] + 0 : lines[host]
      }
    }' "$1"
}

# is_here HOST: whether it is this machine.
is_here() {
  [[ $1 == localhost || $1 == 127.* || $1 == "$(hostname)" ]] || [[ " $(hostname -I 2>/dev/null) " == *" $1 "* ]]
}

# on_host HOST COMMAND: run a shell line there; ssh as mpirun would, without asking for a password.
on_host() {
  if is_here "$1"; then
    bash -c "$2"
  else
    ssh -o BatchMode=yes -o ConnectTimeout=5 "$1" "$2"
  fi
}

# wait_for SECONDS HOST...: return when all hosts answer, end with an error when they have not after that time.
# The operator makes the launcher when the workers are ready, but their names may still be on the way to the DNS.
wait_for() {
  local until=$((SECONDS + $1)) host answer
  shift
  for host in "$@"; do
    until answer=$(on_host "$host" true 2>&1); do
      ((SECONDS < until)) || fail "$host did not answer ssh in time: ${answer##*$'\n'}"
      sleep 2
    done
  done
}

# cores_of HOST: "SOCKETS CORES LEAST", the physical cores that a process may use there, in all and on the socket with
# the fewest; nothing if the host can't tell.
cores_of() {
  # shellcheck disable=SC2016 # $$ is the remote shell's
  on_host "$1" 'taskset -cp $$ && lscpu -p=CPU,CORE,SOCKET' 2>/dev/null </dev/null | awk -F, '
    /affinity list:/ {
      sub(/.*: */, "")
      for (i = 1; i <= NF; i++) { n = split($i, ends, "-"); for (cpu = ends[1]; cpu <= ends[n]; cpu++) allowed[cpu + 0] }
      next
    }
    /^[0-9]/ && ($1 + 0 in allowed) && !(($2, $3) in seen) { seen[$2, $3]; total++; cores[$3]++ }
    END {
      for (socket in cores) { sockets++; if (!least || cores[socket] < least) least = cores[socket] }
      if (total) print sockets, total, least
    }' || true
}

# ask_to_stop MPIRUN: the first time ask its processes to save and end, later end them at once. mpirun passes SIGUSR1 on;
# on SIGTERM it kills a second later. Some senders signal a process and then once more its group.
ask_to_stop() {
  interrupted=1
  if [[ -z $asked ]]; then
    asked=$SECONDS
    kill -USR1 "$1" 2>/dev/null || true
  elif ((SECONDS > asked + 1)); then
    kill -TERM "$1" 2>/dev/null || true
  fi
}

# run_stoppable MPIRUN...: run it in a session of its own, which the terminal's Ctrl-C does not reach.
run_stoppable() {
  local status process
  asked='' interrupted=1
  setsid "$@" </dev/null &
  process=$!
  trap 'ask_to_stop "$process"' TERM INT HUP
  while ((interrupted)); do # a signal ends the wait, not mpirun
    interrupted=0 status=0
    wait "$process" || status=$?
  done
  trap - TERM INT HUP
  return "$status"
}
