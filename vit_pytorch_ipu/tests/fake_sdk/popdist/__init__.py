"""popdist as its documentation has it: where a process stands among PopRun's."""

import os


def isPopdistEnvSet():
    return "POPDIST_NUM_TOTAL_REPLICAS" in os.environ


def getNumTotalReplicas():
    return int(os.environ["POPDIST_NUM_TOTAL_REPLICAS"])


def getNumLocalReplicas():
    return int(os.environ["POPDIST_NUM_LOCAL_REPLICAS"])
