"""Readers of the layouts that people have, each giving `Example`s."""

from showtell.datasets.captions import read_captions
from showtell.datasets.native import read_folders, read_native

__all__ = ["read_captions", "read_folders", "read_native"]
