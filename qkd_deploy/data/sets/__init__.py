"""Where data sets live: one file each, beside the file formats and downloads that they share."""
