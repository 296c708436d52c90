-- What a request asked for beside its messages, and replies that are more than text.
alter table turns add column request jsonb not null default '{}';  -- tools, response_format, … as asked
alter table replies add column message jsonb;  -- with tool_calls and reasoning_content; null: only text

-- Stored completions are found by their metadata.
create index turns_by_metadata on turns using gin (metadata jsonb_path_ops);
