"""aslfast: Agentic Self-Learning (arXiv 2510.14253) on one shared base model."""

__version__ = "0.1.0"
