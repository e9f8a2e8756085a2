"""The commands: their options, typed and documented. Each imports its work when it runs, so that help is fast."""
