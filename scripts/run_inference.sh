#!/bin/sh
# Draw: prompts with a model trained from scratch, or with --adapter a content in the style of a picture.
#
#   scripts/run_inference.sh --checkpoint runs/circles_text_to_image/checkpoints/epoch-48 \
#       --prompt "orange circle with teal background" --num_inference_steps 100 --scheduler ddpm
#   scripts/run_inference.sh --adapter adapter.safetensors --content a.png --style b.png --output c.png
#
# Every flag goes on as it is (bottega generate --help, bottega stylize --help).
set -eu
for word in "$@"; do
    case "$word" in --adapter | --adapter=*) exec "${BOTTEGA:-bottega}" stylize "$@" ;; esac
done
exec "${BOTTEGA:-bottega}" generate "$@"
