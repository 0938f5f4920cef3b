"""The integer model: frozen constants and the codes that they make."""
