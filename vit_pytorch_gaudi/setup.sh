#!/usr/bin/env bash
# Install what train.py needs beside Habana's torch into this machine's Python. A second run finds it all there.
set -euo pipefail
app=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$app"
source scripts/launch.sh

usage() {
  cat <<'HELP'
Usage: ./setup.sh [options]

Install what train.py needs beside torch, which must be there: Habana's image brings its own, and it is left as it is.
run_vit.sh --setup runs this once on every host.

  --requirements FILE   packages, as pip reads them; requirements-hpu.txt
  --wheels FOLDER       install from this folder of wheels only, without a network; wheels/ beside this script if it
                        is there. Fill it in the same image: pip download --dest wheels --requirement FILE
  --dry-run             print the command and stop
  -h, --help            this text
HELP
}

requirements=requirements-hpu.txt wheels='' dry_run=0
while (($#)); do
  case $1 in
    --requirements) value "$@" && requirements=$2 && shift 2 ;;
    --wheels) value "$@" && wheels=$2 && shift 2 ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "there is no option $1" ;;
  esac
done

[[ -r $requirements ]] || usage_error "$requirements can't be read: check --requirements"
if [[ -z $wheels && -d wheels ]]; then wheels=wheels; fi
[[ -z $wheels || -d $wheels ]] || usage_error "there is no folder $wheels: check --wheels"

find_common "${app%/*}"
# The repository's own packages are found where they are (-e), not installed into a folder that hosts share.
mapfile -t packages < <(sed -E 's/(^|[[:space:]]+)#.*//; s/[[:space:]]+$//; /^(-e .*)?$/d' "$requirements")
# pip may not exchange torch, which is built for the cards, for another one.
mapfile -t kept < <(python3 -c '
import importlib.metadata as metadata
for name in ("torch", "torchvision"):
    try:
        print(name + "==" + metadata.version(name))
    except metadata.PackageNotFoundError:
        pass
')
[[ " ${kept[*]}" == *" torch=="* ]] || fail "torch is not installed: take Habana's image, elsewhere requirements.txt"

install=(python3 -m pip install --disable-pip-version-check)
[[ -z $wheels ]] || install+=(--no-index --find-links "$wheels")
install+=("${packages[@]}" "${kept[@]}")
if ((dry_run)); then
  printf '%s\n' "$(quoted "${install[@]}")"
  exit
fi
export PIP_ROOT_USER_ACTION=ignore
"${install[@]}"
python3 train.py --help >/dev/null || fail "train.py does not start with what is installed: see above"
