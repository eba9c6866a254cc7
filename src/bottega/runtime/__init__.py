"""The ground floor: errors, files, randomness, memory, locks, interruption, progress, provenance, configuration."""
