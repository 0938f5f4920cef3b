"""Learnable fake quantizers: the interface (`base`), one file per published method, and their first scales."""
