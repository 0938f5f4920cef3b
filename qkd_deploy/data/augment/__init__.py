"""What training does to images, in batches on the device."""
