"""Exit codes of the program; 0 is an answer, also "does not fit"."""

FAULT = 1  # of the planner itself
BAD_INPUT = 2
UNMET = 3  # what --require names
INTERRUPTED = 130
BROKEN_PIPE = 141  # as of a program that a signal ends when the reader of its output has gone
