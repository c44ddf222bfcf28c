"""The views there are, by name. A new view is one line here."""

from pcl_jax.config import Egemaps, Mel
from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import MelView
from pcl_jax.views.view import View


def catalogue(mel: Mel, egemaps: Egemaps) -> dict[str, View]:
    """All views, made with these parameters."""
    views: tuple[View, ...] = (MelView(mel), EgemapsView(egemaps))
    return {view.name: view for view in views}


VIEWS: dict[str, View] = catalogue(Mel(), Egemaps())
"""All views with default parameters."""
