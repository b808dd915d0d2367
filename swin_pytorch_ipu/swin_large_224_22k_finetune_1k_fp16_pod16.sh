#!/usr/bin/env bash
# Fine-tune Swin-L from ImageNet-22k to ImageNet-1k on 16 IPUs: one process, 2 replicas, 8,196 images per update.
# Takes the options of train_swin.sh, see --help; the weights lie in this folder unless --pretrained-model says otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./train_swin.sh --name "${0##*/}" --cfg SWIN_LARGE_224_22K_FINETUNE_1K_FP16_POD16 \
  --pretrained-model swin_large_patch4_window7_224_22k.pth "$@"
