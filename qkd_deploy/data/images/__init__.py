"""From image files to pixels: decoding, worker processes, streamed splits."""
