"""Runtimes that files are written for, one file each: what a finished file must show there before anybody gets it."""
