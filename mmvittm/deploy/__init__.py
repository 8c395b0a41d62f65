"""Exported models: the file formats, and what a file needs to know to be used without this package's models."""

from .formats import FORMATS, format_of

__all__ = ['FORMATS', 'format_of']
