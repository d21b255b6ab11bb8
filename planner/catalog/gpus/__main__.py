"""`python -m planner.catalog.gpus` writes the index of names anew, after a profile has changed."""

from planner.catalog.files import write_atomically
from planner.catalog.gpus.names import INDEX, build_index, index_text
from planner.catalog.paths import data_dir

write_atomically(data_dir() / INDEX, index_text(build_index()))
