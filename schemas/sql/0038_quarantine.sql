-- Raters whose votes do not teach until somebody has looked at them, and the address block that a turn came from.

-- The votes of a rater that is held or rejected are kept, and teach nothing.
create table quarantine (
    project         text not null references projects,
    rater           text not null,                   -- the pseudonym, as in turns and feedback
    id              bigint generated always as identity unique,  -- by which the audit log names it
    state           text not null default 'held' check (state in ('held', 'accepted', 'rejected')),
    reason          text not null,                   -- what was found first: burst, near_duplicates, …
    evidence        jsonb not null default '{}',     -- of each reason, figures and ids; no text of people's
    accepted        jsonb not null default '{}',     -- reasons that an operator found harmless, with the time
    created_at      timestamptz not null default now(),  -- since when it is held
    decided_at      timestamptz,
    decided_by      text,                            -- as in the audit log
    decision_reason text,
    primary key (project, rater)
);
create index quarantine_by_state on quarantine (project, state, id);

-- Of a turn whose person nobody vouches for: a keyed hash of the network of its address, so that what comes from one
-- network counts together. Null where a server's key said who it is.
alter table turns add column origin text;

-- An audited table may have the pseudonym of a person, which would outlive their erasure in the log.
create or replace function write_audit_log() returns trigger language plpgsql as $$
declare
    hidden constant text[] := '{hash,previous_hash,secret,query,manifest,gate,evidence,version,changed_at,
        evidence_at,evaluate_after,due_at,claimed_until,failures,failing_since,rater,accepted}';
    old_row jsonb := case when tg_op = 'INSERT' then '{}' else to_jsonb(old) end;
    new_row jsonb := case when tg_op = 'DELETE' then '{}' else to_jsonb(new) end;
    either jsonb := old_row || new_row;
    changes jsonb;
begin
    select coalesce(jsonb_object_agg(name, jsonb_build_object(
            'from', case when length(old_row ->> name) > 1000 then to_jsonb(left(old_row ->> name, 1000) || '…')
                else old_row -> name end,
            'to', case when length(new_row ->> name) > 1000 then to_jsonb(left(new_row ->> name, 1000) || '…')
                else new_row -> name end)), '{}') into changes
        from jsonb_object_keys(either - hidden) as name
        where old_row ->> name is distinct from new_row ->> name;
    if tg_op = 'UPDATE' and old_row -> 'hash' is distinct from new_row -> 'hash' then
        changes := changes || '{"secret": "replaced"}';
    end if;
    if tg_op = 'UPDATE' and old_row -> 'query' is distinct from new_row -> 'query' then
        changes := changes || '{"query": "replaced"}';
    end if;
    if changes <> '{}' then
        insert into audit_log (project, actor, action, target, details) values (
            coalesce(either ->> 'project', either ->> 'id'),
            coalesce(nullif(current_setting('hearken.actor', true), ''), 'database:' || session_user),
            tg_argv[0] || case tg_op when 'INSERT' then '.created' when 'UPDATE' then '.changed' else '.deleted' end,
            either ->> tg_argv[1],
            changes);
    end if;
    return null;
end $$;
create trigger audit after insert or update or delete on quarantine
    for each row execute function write_audit_log('quarantine', 'id');
