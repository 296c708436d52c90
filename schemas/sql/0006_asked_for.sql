-- What an operator asked for at the command line: serving loads and probes it, and only then makes it live.

alter table policies add column asked_at timestamptz;  -- null when nobody does, or no more
