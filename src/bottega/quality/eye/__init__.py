"""The learned eye: statistics of cells against content and style, and the network that reads them."""
