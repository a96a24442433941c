"""The version of this package, which plans bind by the digest of the code that may run them."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
