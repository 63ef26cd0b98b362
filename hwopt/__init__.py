"""hwopt: a compiler-style performance model of accelerators, from traced PyTorch graphs.

The public names are listed in `__init__.pyi` and imported on first use, so that `import hwopt`
loads no heavy dependency.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
