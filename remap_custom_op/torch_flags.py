"""Print the compiler's and linker's flags for an operator of the torch that this Python has."""

import os
import sys

try:
    import torch
except ImportError:
    sys.exit(f"{sys.executable} has no torch: activate its environment, or give it as `make PYTHON=…/bin/python`.")

package = os.path.dirname(torch.__file__)
flags = [f"-isystem{package}/include", f"-isystem{package}/include/torch/csrc/api/include", f"-L{package}/lib"]
print(*flags, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", "-ltorch_cpu", "-lc10")
