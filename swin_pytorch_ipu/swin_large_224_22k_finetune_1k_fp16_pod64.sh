#!/usr/bin/env bash
# Fine-tune Swin-L from ImageNet-22k to ImageNet-1k on 64 IPUs: 2 processes, 8 replicas, 8,208 images per update.
# Takes the options of train_swin.sh, see --help; the weights lie in this folder unless --pretrained-model says otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./train_swin.sh --name "${0##*/}" --cfg SWIN_LARGE_224_22K_FINETUNE_1K_FP16_POD64 --replicas 8 --instances 2 \
  --ipus-per-replica 8 --pretrained-model swin_large_patch4_window7_224_22k.pth "$@"
