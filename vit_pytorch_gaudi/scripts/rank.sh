#!/usr/bin/env bash
# One process of the run. mpirun kills its processes a second after a SIGTERM, too soon to save, but passes SIGUSR1 on:
# here that becomes the SIGTERM on which train.py finishes its step, saves and ends with 75. Once, since a second one
# would end it without saving, and the launcher and a worker that is taken down may both ask.
set -euo pipefail

(
  trap '' USR1 # mpirun signals the group
  exec "$@" > >(exec cat) # mpirun's output is a terminal, whose progress bar would fill the log
) &
process=$!
trap 'trap "" USR1; kill -TERM "$process" 2>/dev/null || true; interrupted=1' USR1
interrupted=1
while ((interrupted)); do
  interrupted=0 status=0
  wait "$process" || status=$?
done
exit "$status"
