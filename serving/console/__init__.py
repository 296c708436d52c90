"""The console's API: what product teams and operators see and do, over the same functions as the command
line."""
