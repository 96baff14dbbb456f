"""The parts of scripts/package."""
