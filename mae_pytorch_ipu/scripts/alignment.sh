#!/usr/bin/env bash
# Compare the gradients of the host's exact and fast arithmetic and, where there are some, of IPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/launch.sh

usage() {
  cat <<'HELP'
Usage: bash scripts/alignment.sh [options] [-- arguments of alignment.py --gradients]

One step of mae_vit_align_patch16 on the same weights, images and masks: in plain torch, with the host's exact and fast
arithmetic, and with the Poplar SDK where it is installed. Fails if a gradient differs from plain torch's by more than
a share of its largest value: 0.001, with --half 0.1.

      --half           float16 (bfloat16 in fast) instead of float32
      --output DIR     folder of the gradients, earlier ones removed; output/alignment, with --half output/alignment_half
      --dry-run        print the commands and stop
  -h, --help           this text
HELP
}

half=0 output=''
while (($#)); do
  case $1 in
    --half) half=1 && shift ;;
    --output) value "$@" && output=$2 && shift 2 ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) usage_error "there is no option $1; arguments of alignment.py stand after --" ;;
  esac
done

tolerance=0.001 precision=() folder=output/alignment
if ((half)); then tolerance=0.1 precision=(--half --loss_scale 1024) folder=output/alignment_half; fi
output=${output:-$folder}
implementations=(plain exact fast)
if python3 -c 'import importlib.util as i, sys; sys.exit(i.find_spec("poptorch") is None)'; then
  implementations+=(ipu)
fi

align=(python3 -m scripts.alignment --output "$output")
files=(inputs "${implementations[@]}")
files=("${files[@]/%/.safetensors}")
commands+=("$(quoted rm -f "${files[@]/#/$output/}")")
for name in "${implementations[@]}"; do
  where=(env POPTORCH_HOST=1)
  [[ $name != ipu ]] || where=(env POPTORCH_HOST=0)
  commands+=("$(quoted "${where[@]}" "${align[@]}" --gradients "$name" "${precision[@]}" "$@")")
done
commands+=("$(quoted env POPTORCH_HOST=1 "${align[@]}" --compare "${implementations[@]}" --tolerance "$tolerance")")
for line in "${commands[@]}"; do
  if ((dry_run)); then printf '%s\n' "$line"; else bash -c "exec $line"; fi
done
