"""One module per work: functions that take settings and return a training step; names in CONTENDERS, ours first."""
