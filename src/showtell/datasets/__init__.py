"""Readers of the layouts that people have, each giving `Example`s."""

from showtell.datasets.captions import read_captions
from showtell.datasets.layouts import LAYOUTS, find_layout, read_all, read_data
from showtell.datasets.native import read_native
from showtell.datasets.tables import Columns

__all__ = ["LAYOUTS", "Columns", "find_layout", "read_all", "read_captions", "read_data", "read_native"]
