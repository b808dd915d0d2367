#!/usr/bin/env bash
# Validate a fine-tuned ViT on this host.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/launch.sh

usage() {
  cat <<'HELP'
Usage: bash scripts/eval.sh [MODEL_DIR [IMAGENET_DIR]] [options] [-- arguments of finetune_validate.py]

Validate MODEL_DIR (a run folder, a file of weights or a hub name; checkpoint_mae_vit_base_finetune) on every image of
IMAGENET_DIR/validation (./data/imagenet1k). What stands after -- goes to finetune_validate.py.

      --dry-run        print the command and stop
  -h, --help           this text
HELP
}

given=()
while (($#)); do
  case $1 in
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    -*) usage_error "there is no option $1; arguments of finetune_validate.py stand after --" ;;
    *) given+=("$1") && shift ;;
  esac
done
((${#given[@]} <= 2)) || usage_error "${given[2]} is one word too many after MODEL_DIR and IMAGENET_DIR"

launcher=python3
words=(finetune_validate.py --resume "${given[0]:-checkpoint_mae_vit_base_finetune}")
words+=(--batch_size 16 --data_path "${given[1]:-./data/imagenet1k}")
commands+=("$(quoted python3 "${words[@]}" "$@")")
launch "output/mae_eval_$(date +%Y%m%d-%H%M%S).log"
