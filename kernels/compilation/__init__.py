"""Every shipped kernel configuration, compiled for sm_90 without a GPU and measured."""
