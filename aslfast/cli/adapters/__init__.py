"""The work of `aslfast demos`, `sft`, `export` and `model`: demonstrations and bases in, adapters and models out."""
