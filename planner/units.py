"""The only conversion constants. Inside `planner` everything is bytes, seconds, FLOPs and tokens."""

GIB = 2**30  # memory on a card, engine logs
GB = 10**9  # files on disk, vendors' labels, bandwidth
MIB_PER_GIB = 2**10  # logs and sheets that print MiB
BILLION = 1e9  # parameters, as models are named
MS_PER_S = 1e3  # columns of scenarios and estimates, screens
