"""Rendering a run: every step for everybody, frozen before the first message goes out."""

from commplan.rendering.freeze import render_run

__all__ = ["render_run"]
