"""The parts of ../run."""
