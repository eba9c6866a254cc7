#!/bin/sh
# Draw a content in the style of a picture; every flag goes to `bottega stylize` (see `bottega stylize --help`).
set -eu
exec "${BOTTEGA:-bottega}" stylize "$@"
