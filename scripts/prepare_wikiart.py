"""Prepare WikiArt as styles: `bottega data wikiart` under the name its users know; all options are passed on.

python scripts/prepare_wikiart.py --output-dir data/wikiart --cache-dir data/wikiart/raw --mode symlink
"""

import sys

from bottega.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "wikiart", *sys.argv[1:]]))
