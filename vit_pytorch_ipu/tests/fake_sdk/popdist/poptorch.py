"""Options of a program that PopRun started."""

import poptorch


class Options(poptorch.Options):
    def replicationFactor(self, factor):
        raise RuntimeError("PopRun sets it")
