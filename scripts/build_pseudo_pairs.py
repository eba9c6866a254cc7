"""Write a pair list: `bottega data pairs` under the name its users know; all options are passed on.

python scripts/build_pseudo_pairs.py --num-pairs 10000 --seeds 0,1,2 --output data/pairs/pseudo_pairs_train.jsonl
"""

import sys

from bottega.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "pairs", *sys.argv[1:]]))
