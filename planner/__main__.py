"""`python -m planner` is the `planner` program."""

from planner.cli import main

if __name__ == "__main__":
    main()
