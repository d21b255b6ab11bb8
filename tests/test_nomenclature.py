"""The nomenclature lists what the code has."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "make_nomenclature.py"


def test_the_nomenclature_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_nomenclature", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text() == script.page()
