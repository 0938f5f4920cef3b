"""Kinds of problems: what targets look like, how answers are judged and imitated, and what is measured."""
