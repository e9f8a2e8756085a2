"""The namespace of all operators in torch.library: torch.ops.aslfast_kernels."""

import torch

NAMESPACE = "aslfast_kernels"
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
# Tags of operators that wait for values of the device (checks by name, the number of loss tokens): a CUDA graph cannot
# capture them, so torch.compile(mode="reduce-overhead") runs them between its graphs.
READS_BACK = (torch.Tag.cudagraph_unsafe,)
