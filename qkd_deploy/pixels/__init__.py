"""What pixels mean to networks: their normalisation, and how evaluation resizes and crops; readable without torch."""
