"""The options of each command, typed and documented; a command imports its work when it runs."""
