"""The calculator's entry: which pages there are. `planner app` and `make app` start it with its settings."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

HERE = Path(__file__).resolve().parent
# They wait for files or processes, and must not keep others waiting.
WAIT = ("recommend", "simulation", "calibration", "quality_check")
SIDEBAR_PX = 360  # both doors side by side


def main() -> None:
    """Run the page that the address names."""
    import streamlit as st

    st.set_page_config("LLM capacity planner", HERE / "icon.svg", layout="wide", initial_sidebar_state=SIDEBAR_PX)
    import warm

    pages = [
        st.Page(HERE / "views" / "calculator.py", title="Calculator", icon=":material/calculate:", default=True),
        st.Page(HERE / "views" / "recommend.py", title="Recommend", icon=":material/format_list_numbered:"),
        st.Page(HERE / "views" / "compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page(HERE / "views" / "simulation.py", title="Simulation", icon=":material/timeline:"),
        st.Page(HERE / "views" / "calibration.py", title="Calibration", icon=":material/speed:"),
        st.Page(HERE / "views" / "finetuning.py", title="Fine-tuning", icon=":material/model_training:"),
        st.Page(HERE / "views" / "quality_check.py", title="Quality check", icon=":material/rule:"),
    ]
    page = st.navigation(pages, position="top")
    with nullcontext() if page.url_path in WAIT else warm.TURN:
        page.run()


if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
if __name__ == "__main__":  # a search's own process imports this file under another name and wants no page
    main()
