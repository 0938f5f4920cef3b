"""The form of the contract: what a row holds, and what its functions work with."""
