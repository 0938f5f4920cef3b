"""Where quantizers go, and how wide they are."""
