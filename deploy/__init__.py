"""This package holds every way to run Hearken. It is the only one that may import all the others."""
