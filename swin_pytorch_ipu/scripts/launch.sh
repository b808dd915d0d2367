# shellcheck shell=bash
# Helpers of train_swin.sh; sourced, not run.

name=${0##*/} # of the script, for messages

# Print one sentence and exit with 2.
usage_error() {
  printf '%s: %s (see --help)\n' "$name" "$1" >&2
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

# Print words as one shell line that gives these words again.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:,=@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

# launch DRY_RUN WORD...: become this command, or print it if DRY_RUN is 1.
launch() {
  local dry_run=$1 program=$2
  shift
  if ((dry_run)); then
    quoted "$@"
    return
  fi
  command -v "$program" >/dev/null || {
    printf '%s: %s is not on PATH: activate the environment that it is installed in\n' "$name" "$program" >&2
    exit 1
  }
  exec "$@"
}
