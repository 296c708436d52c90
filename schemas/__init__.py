"""This room defines what the processes share: wire types, events, tables, settings and errors."""
