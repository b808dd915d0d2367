"""train.py as a program of its own on the fake Habana: FAKE's folder on PYTHONPATH, tensors on the CPU."""

import sys

import device
import train

assert "torch" not in sys.modules, "torch loads Habana's packages, so it comes after their environment"
device.HPU = "cpu"
train.main(sys.argv[1:])
