#!/usr/bin/env python3
"""PopRun's part that matters on a host: start the instances on this machine, each with the variables PopRun exports."""

import os
import subprocess
import sys

# What PopRun 3.4 takes of what the scripts and benchmarks give it.
TAKES = ["host", "num-replicas", "num-instances", "num-ilds", "ipus-per-replica", "vipu-server-host", "vipu-partition"]
TAKES += ["vipu-allocation", "update-partition", "remove-partition", "mpi-global-args", "mpi-local-args"]
TAKES += ["vipu-server-timeout", "executable-cache-path"]


def plan(words):
    """PopRun's arguments → the variables of each instance, and the program to run."""
    words, options = list(words), {}
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word != "-vv":
            name, equals, value = word.lstrip("-").partition("=")
            assert name in TAKES, f"poprun has no option {word}"
            assert equals, f"{word} has no value"
            options[name] = value
    assert words, "poprun was given no program"
    instances, replicas = int(options["num-instances"]), int(options["num-replicas"])
    assert replicas % instances == 0
    local = replicas // instances
    numbers = [
        {
            "POPDIST_NUM_TOTAL_REPLICAS": replicas,
            "POPDIST_NUM_LOCAL_REPLICAS": local,
            "POPDIST_REPLICA_INDEX_OFFSET": instance * local,
            "POPDIST_NUM_IPUS_PER_REPLICA": options["ipus-per-replica"],
            "POPDIST_UNIFORM_REPLICAS_PER_INSTANCE": 1,
            "POPDIST_LOCAL_INSTANCE_INDEX": instance,
        }
        for instance in range(instances)
    ]
    return [{name: str(value) for name, value in place.items()} for place in numbers], words


def main(words):
    places, program = plan(words)
    started = [subprocess.Popen(program, env=dict(os.environ, **place)) for place in places]
    return max(process.wait() for process in started)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
