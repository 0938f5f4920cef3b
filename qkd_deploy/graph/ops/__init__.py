"""The contract: what every kind of node means, on floats and on codes."""
