"""Exact BM25 over passages, in C++: build, open, search, change. Needs no torch."""

from aslfast.index.bm25 import BM25Index

__all__ = ["BM25Index"]
