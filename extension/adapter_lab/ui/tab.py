"""The tab in gradio: one container, the same on gradio 3.41, 4 and 6; what is in it is drawn by `javascript/`."""

from __future__ import annotations

from typing import Any

TITLE = "Adapter Lab"
# The container's id, which `javascript/adapter_lab.js` and `style.css` look for.
CONTAINER = "adapter_lab"
CONTENT = f'<div id="{CONTAINER}"><p>Adapter Lab needs JavaScript; its page appears here in a moment.</p></div>'


def build() -> Any:
    """The tab's `gradio.Blocks`, as web UIs take it from `on_ui_tabs`."""
    import gradio

    with gradio.Blocks(analytics_enabled=False) as blocks:
        gradio.HTML(CONTENT, elem_id=f"{CONTAINER}_html")
    return blocks
