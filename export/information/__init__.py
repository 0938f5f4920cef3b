"""Do the codes of a file say anything? Information that its tensors keep, and what that does to outputs."""
