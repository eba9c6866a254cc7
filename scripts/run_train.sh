#!/bin/sh
# Train a StyleAdapter; every flag goes to `bottega train style` (see `bottega train style --help`).
set -eu
exec "${BOTTEGA:-bottega}" train style "$@"
