"""Readers of the layouts that people have, each giving `Example`s."""

from showtell.datasets.captions import read_captions
from showtell.datasets.layouts import LAYOUTS, read_all, read_data
from showtell.datasets.native import read_native

__all__ = ["LAYOUTS", "read_all", "read_captions", "read_data", "read_native"]
