"""Plumbing of a training run: options, checkpoints, history, progress, signals, processes. Same in every app."""
