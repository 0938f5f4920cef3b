"""Arithmetic that every CPU agrees on."""
