"""The work of `aslfast demos`, `aslfast sft` and `aslfast export`: demonstrations in, adapters and models out."""
