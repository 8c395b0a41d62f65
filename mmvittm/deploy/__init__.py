"""Export of models to files that run without mmvittm, and prediction with these files."""

from .formats import FORMATS, format_of

__all__ = ['FORMATS', 'format_of']
