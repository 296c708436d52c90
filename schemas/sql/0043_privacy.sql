-- Privacy: redaction by project, and erasures in the audit log.

-- What personal data is redacted before anything is stored: null leaves it to the settings, empty is nothing.

alter table projects add column redaction text[];

-- The tokens of a reply: of a redacted turn, which keeps no token ids, as they were counted.
create function tokens_of(request jsonb, choice integer, token_ids integer[]) returns integer
    language sql immutable parallel safe as $$
    select coalesce((request #>> array['redacted', 'tokens', choice::text])::integer, cardinality(token_ids))
$$;
create function prompt_tokens_of(request jsonb, prompt_token_ids integer[]) returns integer
    language sql immutable parallel safe as $$
    select coalesce((request #>> '{redacted,prompt_tokens}')::integer, cardinality(prompt_token_ids))
$$;

-- Erasures are in the audit log: who asked, and when nothing was left. Their other columns name the person, so
-- they are not, as an append-only log cannot forget.
create function write_erasure_to_audit_log() returns trigger language plpgsql as $$
begin
    insert into audit_log (project, actor, action, target, details) values (
        new.project,
        coalesce(nullif(current_setting('hearken.actor', true), ''), 'database:' || session_user),
        case tg_op when 'INSERT' then 'erasure.created' else 'erasure.done' end,
        new.id,
        case tg_op when 'INSERT'
            then jsonb_build_object('asked_by', jsonb_build_object('from', null, 'to', new.asked_by))
            else jsonb_build_object('done_at', jsonb_build_object('from', null, 'to', new.done_at)) end);
    return null;
end $$;
create trigger audit_created after insert on erasures
    for each row execute function write_erasure_to_audit_log();
create trigger audit_done after update of done_at on erasures
    for each row when (old.done_at is null and new.done_at is not null)
    execute function write_erasure_to_audit_log();
