"""Systems of the field, each in a file of its name: its own rewards, and its phase where settings do not suffice.

The recipes are in aslfast/config/recipes/systems; `aslfast recipes NAME` explains one.
"""
