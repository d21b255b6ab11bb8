"""The command line: thin commands, one place where errors become one line and an exit code.

Exit codes: 0 an answer, also "does not fit"; 2 bad input; 3 an unmet --require; 130 interrupted; 1 a fault
of the planner itself, whose traceback PLANNER_TRACEBACK=1 shows.
"""

from planner.cli.main import main

__all__ = ["main"]
