"""Passes: rewrites of programs, one file each.

A pass is a frozen dataclass whose fields are its options; `manager.Pass` is its base. Adding one is
adding one file here with `@passes.register("name")` above the class; it can then be named in a
pipeline text (`pipeline`): `canonicalize,fuse,tile{factors=perfect}`.
"""
