"""The only conversion constants. Inside `planner` everything is bytes, seconds, FLOPs and tokens."""

GIB = 2**30  # memory on a card, engine logs
GB = 10**9  # files on disk, vendors' labels, bandwidth
