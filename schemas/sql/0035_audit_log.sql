-- The audit log: who changed what, written in the transaction of the change by triggers, so no change can be
-- forgotten. The actor is the setting `hearken.actor` of the transaction or connection: `key:ID`, `command:USER`
-- or `service`; without one, the database's user.

create table audit_log (
    id      bigint generated always as identity primary key,
    project text not null,
    at      timestamptz not null default clock_timestamp(),
    actor   text not null,
    action  text not null,                           -- key.created, route.changed, …
    target  text not null,                           -- the id of what was changed
    details jsonb not null default '{}'              -- each column with its value before and after
);
create index audit_log_by_project on audit_log (project, id);
create index audit_log_by_actor on audit_log (project, actor, id);
create index audit_log_by_target on audit_log (project, target, id);

create function refuse_change_of_audit_log() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is append-only' using errcode = 'insufficient_privilege';
end $$;
create trigger append_only before update or delete or truncate on audit_log
    for each statement execute function refuse_change_of_audit_log();

-- Its arguments are the word for what a row is, and the column with its id. Secrets are never written, nor the
-- queries of saved views, which may name people; a value of more than 1,000 characters is shortened.
create function write_audit_log() returns trigger language plpgsql as $$
declare
    hidden constant text[] := '{hash,previous_hash,secret,query,manifest,gate,evidence,version,changed_at,
        evidence_at,evaluate_after,due_at,claimed_until,failures,failing_since}';
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

create trigger audit after insert or update or delete on keys
    for each row execute function write_audit_log('key', 'id');
create trigger audit after insert or update on projects
    for each row execute function write_audit_log('project', 'id');
create trigger audit after update on routes
    for each row execute function write_audit_log('route', 'project');
create trigger audit after update of state, pinned_at, asked_at on policies
    for each row execute function write_audit_log('policy', 'id');
create trigger audit after insert or update of state, share, reason on rollouts
    for each row execute function write_audit_log('rollout', 'id');
create trigger audit after insert or delete on annotation_queues
    for each row execute function write_audit_log('queue', 'id');
create trigger audit after insert or update or delete on saved_views
    for each row execute function write_audit_log('view', 'name');
create trigger audit after insert or delete or update of disabled_at on webhook_endpoints
    for each row execute function write_audit_log('webhook', 'id');
