"""Random changes of training images, in batches on the device that holds them."""
