"""`python -m aslfast`: the same as the command `aslfast`."""

from aslfast.cli.main import main

if __name__ == "__main__":
    main()
