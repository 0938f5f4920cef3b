"""Bits for each layer: measure what each width loses (`sensitivity`) and costs (`costs`), and choose (`choose`)."""
