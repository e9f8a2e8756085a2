"""The command line: the app in main.py, the commands' options in commands/, their work in the file of the same name.

Where the work is small (lab, recipes) it is in commands/ too.
"""
