"""What the processes agree on: wire types, events, tables, settings and errors. Imports no other room."""
