-- What a project's policies learn, and what answers while one unlearns an erased person (schemas/projects.py). What
-- is left out is as the settings say.
alter table projects add column learning jsonb not null default '{}';
