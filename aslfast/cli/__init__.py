"""The command line: one file a command; its options in commands/, its app in main.py."""
