#!/bin/sh
# Train: a latent diffusion model from scratch, or with --features-dir a StyleAdapter.
#
#   scripts/run_train.sh --config recipes/circles_text_to_image.yaml --num_epochs 300 --learning_rate 5e-4
#   scripts/run_train.sh --resume runs/circles_text_to_image/checkpoints/epoch-20 --num_samples 10000
#   scripts/run_train.sh --features-dir … --output-dir …        (bottega train style --help)
#
# The words that trainers usually take (num_epochs, num_steps, learning_rate, batch_size, num_samples, seed, save_every,
# with _ or -) become --set of the recipe; every other flag goes on as it is (bottega train ldm --help).
set -eu
for word in "$@"; do
    case "$word" in --features[-_]dir | --features[-_]dir=*) exec "${BOTTEGA:-bottega}" train style "$@" ;; esac
done

# Each word is taken from the front and put behind; after as many turns as there were words they stand in order again.
left=$#
while [ "$left" -gt 0 ]; do
    word=$1
    shift
    left=$((left - 1))
    case "$word" in
        --*=*) name=$(printf %s "${word%%=*}" | tr _ -) value=${word#*=} given=inside ;;
        *) name=$(printf %s "$word" | tr _ -) value= given= ;;
    esac
    case "$name" in
        --num-epochs | --epochs) key=training.num_epochs ;;
        --num-steps | --max-train-steps) key=training.steps ;;
        --learning-rate | --lr) key=training.learning_rate ;;
        --batch-size | --train-batch-size) key=training.batch_size ;;
        --num-samples) key=data.num_samples ;;
        --save-every | --save-every-epochs) key=training.save_every_epochs ;;
        --seed) key=seed ;;
        *) key= ;;
    esac
    if [ -z "$key" ]; then
        set -- "$@" "$word"
        continue
    fi
    if [ -z "$given" ]; then
        case "${1-}" in --*) left=0 ;; esac # the next flag is no value
        [ "$left" -gt 0 ] || { echo "run_train.sh: $word needs a value; for instance $word 300" >&2; exit 2; }
        value=$1
        shift
        left=$((left - 1))
    fi
    set -- "$@" --set "$key=$value"
done
exec "${BOTTEGA:-bottega}" train ldm "$@"
