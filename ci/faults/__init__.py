"""Faults made on purpose while the apps' own commands run, and figures of what came of them: python -m ci.faults."""
