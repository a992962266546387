"""Guarded reading and atomic writing of image files."""
