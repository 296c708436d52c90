-- What a key may do, from which pages, how much and until when; what a project sets for its chats.

alter table keys
    add column name text,
    add column roles text[],                         -- null: those of its kind
    add column origins text[] not null default '{}', -- of the pages that may use it; empty: any
    add column quotas jsonb not null default '{}',   -- per minute: of the key, a person, an address
    add column expires_at timestamptz,
    add column previous_hash bytea unique,           -- of the secret before the last rotation
    add column previous_expires_at timestamptz;      -- until then both secrets are valid
create index keys_by_project on keys (project, created_at, id);

alter table projects
    add column sampling jsonb not null default '{}', -- defaults of requests that name no sampling parameters
    add column promotion text,                       -- null: serving.promotion
    add column public_cards boolean not null default false;  -- whether anybody may read its policies' cards

-- Replicas cache keys: they hear of every change.
create function announce_key() returns trigger language plpgsql as $$
begin
    perform pg_notify('hearken_keys', new.id);
    return null;
end $$;
create trigger announce_key after update on keys for each row execute function announce_key();
