"""Treaty: institutions jointly improve a model without sharing raw data, checkably."""

__all__ = ["__version__"]

__version__ = "0.1.0"
