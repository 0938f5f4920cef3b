"""The programs that run exported files, one file each, and the CPU that they run on."""
