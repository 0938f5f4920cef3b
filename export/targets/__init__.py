"""Runtimes that take files of their own form: a description of each, which runs in a process of its own."""
