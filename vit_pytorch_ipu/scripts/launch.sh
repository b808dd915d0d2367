# shellcheck shell=bash
# What the scripts that launch a training share; sourced, not run. Sets and reads:
#   launcher  what runs the program, which must be on PATH: poprun or torchrun, or python3
#   commands  shell lines, started together
#   dry_run   1 to print them instead

launcher=
commands=()
dry_run=0

# Print one sentence and exit with 2.
usage_error() {
  printf '%s: %s (see --help)\n' "${0##*/}" "$1" >&2
  exit 2
}

# note SENTENCE: print it where errors go.
note() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
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

# is_here HOST: whether it is this machine.
is_here() {
  [[ $1 == localhost || $1 == 127.* || $1 == "$(hostname)" ]] ||
    [[ " $(hostname -I 2>/dev/null) " == *" $1 "* ]]
}

# meet_at HOST HOST...: end with an error unless the others can reach the first one under the name given.
meet_at() {
  local first=$1 host
  for host in "$@"; do
    if [[ $first == localhost || $first == 127.* ]] && ! is_here "$host"; then
      usage_error "$host can't reach $first: give this host's name in -n"
    fi
  done
}

# only_poprun OPTION VALUE: say that torchrun has no use for an option that was given.
only_poprun() {
  [[ -z $2 ]] || note "$1 is for IPUs and has no effect with torchrun"
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

# quoted_on HOST WORD...: the same to run the words on a host, from this folder, through ssh if it is another machine.
quoted_on() {
  local host=$1
  shift
  if is_here "$host"; then
    quoted "$@"
  else
    quoted ssh -o BatchMode=yes "$host" "cd $(quoted "$PWD") && exec env PATH=$(quoted "$PATH") $(quoted "$@")"
  fi
}

# launch LOG: run all commands with their output also in LOG, or print them. The first failure stops the others;
# SIGTERM is passed on and Ctrl-C waited for, so that a run saves and ends before this does.
launch() {
  local log=$1
  if ((dry_run)); then
    printf '%s\n' "${commands[@]}" "# output also in $log"
    return
  fi
  command -v "$launcher" >/dev/null || {
    note "$launcher is not on PATH: activate the environment that it is installed in"
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
  processes=() distant=()
  trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' TERM
  trap 'kill -TERM "${distant[@]}" 2>/dev/null || true' INT # a terminal interrupts those that run here itself
  for line in "${commands[@]}"; do
    bash -c "exec $line" &
    processes+=($!)
    [[ $line != ssh\ * ]] || distant+=($!)
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
