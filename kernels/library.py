"""The namespace of all operators in torch.library: torch.ops.aslfast_kernels."""

import torch

NAMESPACE = "aslfast_kernels"
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
