"""rlhf: RLHF on DeepSpeed, planned with the performance model of hwopt.

The public names are listed in `__init__.pyi` and imported on first use, so that `import rlhf`
loads no heavy dependency.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
