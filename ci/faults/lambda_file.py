"""python -m ci.faults.lambda_file FILE MARKER: a Keras HDF5 file with a Lambda layer whose code makes a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf


def main() -> None:
    """Write the file, and see that its code runs where it is read without care."""
    path, marker = sys.argv[1:]

    def mine(inputs, where=marker):  # type: ignore[no-untyped-def]
        __import__("os").makedirs(where, exist_ok=True)
        return inputs

    model = tf.keras.Sequential([tf.keras.layers.Input((2,)), tf.keras.layers.Lambda(mine), tf.keras.layers.Dense(2)])
    model.save(path, save_format="h5")
    Path(marker).rmdir()
    tf.keras.models.load_model(path, safe_mode=False)
    Path(marker).rmdir()  # FileNotFoundError: the mine is a dud


if __name__ == "__main__":
    main()
