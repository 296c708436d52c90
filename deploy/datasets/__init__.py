"""This package reads and writes data sets: files of rows in TRL's layouts."""
